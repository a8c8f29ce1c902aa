"""Commands about captioners that have a name: `models`, `bundle pull`, `bundle push`."""
