//! Who may do what, over the wire.

mod audit;
mod matrix;
mod members;
mod rates;
mod secrets;
mod tokens;
mod walls;
mod workers;
