//! The real binary, from its command line.
