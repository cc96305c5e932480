//! Reports over the wire: streams and repeats, many writers, resumed runs, and the promise when the next decision comes.

mod due;
mod exact;
mod reports;
mod resumes;
