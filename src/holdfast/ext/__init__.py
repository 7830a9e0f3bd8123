"""One module per optional dependency, named after it and the only one that imports it. Nothing here is loaded by itself."""
