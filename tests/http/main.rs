//! The server over real sockets: whole servers in this process, a client of raw bytes.

mod ads;
mod answers;
mod auth;
mod bad_input;
mod client;
mod disk;
mod faults;
mod fixture;
mod overload;
mod tasks;
mod text;
mod tls;
mod views;
mod watching;
