//! The world of the tests: the system's clock, and numbers that differ.

use lifeboat_core::store::ObjectName;
pub(crate) use lifeboat_test_support::env;

pub(crate) fn name(text: &str) -> ObjectName {
    ObjectName::new(text).unwrap()
}
