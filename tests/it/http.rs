//! Calls that are no gRPC: JSON over HTTP/1 and 2, gRPC-Web, and documents.

mod connections;
mod json;
mod web;
