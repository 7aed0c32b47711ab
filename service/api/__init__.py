"""HTTP: parse, authenticate, call one use case, shape the response. One file per noun."""
