//! Training whose data and checkpoints lie in a real object store or on a slow disk: killed, cut off
//! and damaged, it ends with the same bits.

mod azure;
mod bucket;
mod checkpoints;
mod rough_proxy;
#[expect(dead_code, reason = "the pipeline's own tests use the rest")]
#[path = "../../../pipeline/tests/behaviour/servers.rs"]
mod servers;
mod slow_disk;
mod slow_folder;
mod soak;
