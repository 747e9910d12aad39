//! Stores on real places and servers.
#![allow(clippy::disallowed_methods, reason = "tests stand outside the injected world")]
#![allow(clippy::unwrap_used, reason = "a test that fails should say where")]

mod faults;
mod google;
mod local;
mod locks;
mod objects;
#[allow(dead_code, reason = "the tests of the program use more of it")]
mod proxy;
mod requests;
#[allow(dead_code, reason = "the tests of the program use more of it")]
mod servers;
mod tls;
mod world;
