//! What a configuration becomes.
