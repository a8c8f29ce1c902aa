"""Files of alt-texts as people have them: formats, encodings, columns, file names."""
