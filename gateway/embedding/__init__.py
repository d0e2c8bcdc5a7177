"""The sentence embedder: `export` builds its ONNX folder once, `runtime` turns texts into unit vectors."""
