//! Keepbest.
