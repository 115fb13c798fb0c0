//! What the epochs of a training have of the samples.

use std::collections::BTreeSet;

use dataset::order::{Order, steps_per_epoch};

#[test]
fn what_one_epoch_leaves_out_another_has() {
    for (num_samples, global_batch) in [(9, 2), (31, 16), (1000, 32), (10_553, 32)] {
        let used = steps_per_epoch(num_samples, global_batch) * global_batch;
        assert!(used < num_samples, "nothing is left out");
        let rows = |epoch| -> BTreeSet<u64> {
            let order = Order::new(num_samples, 42, epoch);
            (0..used).map(|position| order.row(position)).collect()
        };
        let (first, second) = (rows(0), rows(1));
        assert_eq!(first.len() as u64, used, "no sample comes twice");
        assert_ne!(first, second, "{num_samples} samples, batches of {global_batch}");
        // The published number of epochs.
        let seen: BTreeSet<u64> = (0..12).flat_map(rows).collect();
        assert_eq!(seen.len() as u64, num_samples, "batches of {global_batch}");
    }
}
