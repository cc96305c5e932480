//! Client of the Keepbest checkpoint service.
