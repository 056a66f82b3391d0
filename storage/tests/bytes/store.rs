//! The contract of stores, on each of them.

use boxgate_storage::backend::{faulty, local, memory::MemoryStore};
use boxgate_storage::conformance::store as contract;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_memory_store_keeps_the_contract() {
    contract::all(&MemoryStore::new(1 << 30).store()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_local_store_keeps_the_contract() {
    // Beside the build, since /tmp is often a file system without direct writes.
    let home = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    contract::all(&local::open(home.path()).await.unwrap()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_local_store_keeps_the_contract_without_direct_writes() {
    let home = tempfile::tempdir_in("/dev/shm").unwrap();
    contract::all(&local::open(home.path()).await.unwrap()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_faulty_store_without_faults_keeps_the_contract() {
    let inner = MemoryStore::new(1 << 30).store();
    contract::all(&faulty::wrap(inner, &faulty::Faults::new())).await;
}
