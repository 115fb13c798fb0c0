//! Who runs where: starts, watches and stops the ranks of a job on this machine, and
//! owns the rank environment ([`rank_env`]).

pub mod rank_env;
