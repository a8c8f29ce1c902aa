"""Alt-texts inside image files: XMP in JPEG, PNG and WebP, found, read and written."""
