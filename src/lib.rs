pub mod cache;
pub mod storage;
pub mod types;
pub mod upstream;
