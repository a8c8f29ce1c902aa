"""Files of the annotation page; read with importlib.resources."""
