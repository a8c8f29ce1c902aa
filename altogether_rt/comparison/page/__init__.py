"""Files of the page; read with importlib.resources."""
