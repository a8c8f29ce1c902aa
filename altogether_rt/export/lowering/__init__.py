"""How linear layers, tables and attention are expressed for a target."""
