//! Data sets: reading, format detection, splitting, packing and collation.
