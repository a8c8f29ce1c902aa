"""What comes in and what goes out: images, alt-texts, folders, rows, sheets. No runtime in here."""
