//! SAM and HQ-SAM in tch: what is learned.
