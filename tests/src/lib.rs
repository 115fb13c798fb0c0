//! End-to-end, parity and fault tests of the workspace live in `tests/tests`.
