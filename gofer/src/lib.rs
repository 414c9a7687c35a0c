//! The gofer: the only process that opens host files.
