//! Messages between sentry and gofer.
