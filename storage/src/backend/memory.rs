//! A store in memory, for models and tests.
