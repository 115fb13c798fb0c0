//! Every starter's environment, read and refused.

use std::process::Command;

use super::*;

fn read(pairs: &[(&str, &str)]) -> Result<Option<RankEnv>, RankEnvError> {
    RankEnv::from_lookup(|name| {
        pairs.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned())
    })
}

const FULL: [(&str, &str); 6] = [
    ("RANK", "5"),
    ("LOCAL_RANK", "1"),
    ("WORLD_SIZE", "8"),
    ("LOCAL_WORLD_SIZE", "4"),
    ("MASTER_ADDR", "node0"),
    ("MASTER_PORT", "29500"),
];

#[test]
fn an_empty_environment_is_a_single_process() {
    assert_eq!(read(&[]), Ok(None));
    assert_eq!(read(&[("MASTER_ADDR", "node0"), ("MASTER_PORT", "29500")]), Ok(None));
}

#[test]
fn what_is_applied_is_what_is_read() {
    let env = read(&FULL).unwrap().unwrap();
    assert_eq!((env.rank, env.local_rank, env.world_size, env.local_world_size), (5, 1, 8, 4));
    let mut command = Command::new("true");
    env.apply_to(&mut command);
    let applied = RankEnv::from_lookup(|name| {
        let value = command.get_envs().find(|(key, _)| *key == name)?.1?;
        Some(value.to_str().unwrap().to_owned())
    });
    assert_eq!(applied, Ok(Some(env)));
}

#[test]
fn local_values_default_to_the_global_ones() {
    let pairs: Vec<_> = FULL.into_iter().filter(|(key, _)| !key.contains("LOCAL")).collect();
    let env = read(&pairs).unwrap().unwrap();
    assert_eq!((env.local_rank, env.local_world_size), (5, 8));
}

#[test]
fn every_missing_variable_is_named() {
    for (name, _) in FULL {
        let pairs: Vec<_> = FULL.into_iter().filter(|(key, _)| *key != name).collect();
        let error = read(&pairs).unwrap_err();
        assert!(
            matches!(error, RankEnvError::HalfSet { missing, .. } if missing == name),
            "{name}: {error}"
        );
    }
}

fn place(pairs: &[(&str, &str)]) -> Result<Option<(usize, usize)>, String> {
    let lookup = |name: &'static str| {
        pairs.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned())
    };
    place_from_lookup(lookup).map_err(|error| error.to_string())
}

#[test]
fn every_launcher_tells_the_place_of_a_rank() {
    assert_eq!(place(&[]), Ok(None));
    assert_eq!(place(&FULL), Ok(Some((5, 8))));
    assert_eq!(place(&[("RANK", "1"), ("WORLD_SIZE", "3")]), Ok(Some((1, 3))));
    let slurm = [("SLURM_PROCID", "2"), ("SLURM_NTASKS", "4")];
    assert_eq!(place(&slurm), Ok(Some((2, 4))));
    let step = [slurm[0], slurm[1], ("SLURM_STEP_NUM_TASKS", "3")];
    assert_eq!(place(&step), Ok(Some((2, 3))));
    // An allocation without srun: nothing says that there are more processes.
    assert_eq!(place(&[("SLURM_NTASKS", "4")]), Ok(None));
    let kubernetes = [("JOB_COMPLETION_INDEX", "0"), ("WORLD_SIZE", "2")];
    assert_eq!(place(&kubernetes), Ok(Some((0, 2))));
    // A launcher inside of an allocation is nearer than the allocation.
    assert_eq!(place(&[&FULL[..], &slurm].concat()), Ok(Some((5, 8))));
}

#[test]
fn half_a_place_is_refused_by_name() {
    for (pairs, expected) in [
        (&[("RANK", "1")][..], "RANK is set but WORLD_SIZE is not"),
        (&[("WORLD_SIZE", "1")], "WORLD_SIZE is set but RANK is not"),
        (&[("JOB_COMPLETION_INDEX", "1")], "JOB_COMPLETION_INDEX is set but WORLD_SIZE is not"),
        (&[("SLURM_PROCID", "1")], "SLURM_PROCID is set but SLURM_NTASKS is not"),
        (&[("RANK", "3"), ("WORLD_SIZE", "3")], "RANK=3 does not fit WORLD_SIZE=3"),
    ] {
        let message = place(pairs).unwrap_err();
        assert!(message.starts_with(expected), "{message}");
    }
}

#[test]
fn wrong_values_are_refused_by_name() {
    for (name, value, text) in [
        ("RANK", "x", "RANK=\"x\" is not a whole number from 0"),
        ("RANK", "8", "RANK=8 does not fit WORLD_SIZE=8: it must be smaller"),
        ("LOCAL_RANK", "4", "LOCAL_RANK=4 does not fit LOCAL_WORLD_SIZE=4: it must be smaller"),
        ("WORLD_SIZE", "0", "WORLD_SIZE=\"0\" is not a whole number from 1"),
        ("MASTER_PORT", "70000", "MASTER_PORT=\"70000\" is not a port number from 1 to 65535"),
    ] {
        let mut pairs = FULL.to_vec();
        pairs.iter_mut().find(|(key, _)| *key == name).unwrap().1 = value;
        assert_eq!(read(&pairs).unwrap_err().to_string(), text);
    }
}

/// A pod's environment beside `pairs`.
fn pod<'a>(pairs: &[(&'a str, &'a str)]) -> Vec<(&'a str, &'a str)> {
    let master = [("MASTER_ADDR", "job-0.svc"), ("MASTER_PORT", "29500")];
    [&master[..], &[("KUBERNETES_SERVICE_HOST", "10.96.0.1")], pairs].concat()
}

/// `srun` over three nodes, as seen by the last task of the second.
const SRUN: [(&str, &str); 10] = [
    ("SLURM_JOB_ID", "4711"),
    ("SLURM_STEP_ID", "0"),
    ("SLURM_PROCID", "7"),
    ("SLURM_LOCALID", "3"),
    ("SLURM_NODEID", "1"),
    ("SLURM_NTASKS", "11"),
    ("SLURM_STEP_NUM_TASKS", "11"),
    ("SLURM_STEP_TASKS_PER_NODE", "4(x2),3"),
    ("SLURM_STEP_NODELIST", "gpu[003-004,010]"),
    ("SLURM_JOB_NODELIST", "gpu[001-010]"),
];

const OPEN_MPI: [(&str, &str); 4] = [
    ("OMPI_COMM_WORLD_RANK", "3"),
    ("OMPI_COMM_WORLD_SIZE", "4"),
    ("OMPI_COMM_WORLD_LOCAL_RANK", "1"),
    ("OMPI_COMM_WORLD_LOCAL_SIZE", "2"),
];

const MASTER: [(&str, &str); 2] = [("MASTER_ADDR", "head"), ("MASTER_PORT", "4000")];

#[test]
fn every_starter_is_recognised() {
    let hydra = [
        ("PMI_RANK", "1"),
        ("PMI_SIZE", "2"),
        ("MPI_LOCALRANKID", "1"),
        ("MPI_LOCALNRANKS", "2"),
        ("MASTER_PORT", "4000"),
    ];
    // The operator sets PET_NPROC_PER_NODE on every job that has a master, to `auto` by default.
    let pytorch_job = |processes| {
        pod(&[
            ("RANK", "2"),
            ("WORLD_SIZE", "3"),
            ("PET_NPROC_PER_NODE", processes),
            ("PET_NODE_RANK", "2"),
            ("PET_NNODES", "3"),
        ])
    };
    let indexed = pod(&[("JOB_COMPLETION_INDEX", "2"), ("WORLD_SIZE", "3")]);
    // Under srun, mpirun's own daemons are the tasks.
    let mpi_in_slurm = [&OPEN_MPI[..], &MASTER, &SRUN].concat();
    let exported = [&SRUN[..], &MASTER, &[("RANK", "7"), ("WORLD_SIZE", "11")]].concat();
    let cases = [
        (&[&SRUN[..], &MASTER].concat()[..], [7, 3, 11, 4], "head", 4000),
        (&exported, [7, 3, 11, 4], "head", 4000),
        (&[&OPEN_MPI[..], &MASTER].concat(), [3, 1, 4, 2], "head", 4000),
        (&mpi_in_slurm, [3, 1, 4, 2], "head", 4000),
        (&hydra, [1, 1, 2, 2], "127.0.0.1", 4000),
        (&pytorch_job(""), [2, 0, 3, 1], "job-0.svc", 29500),
        (&pytorch_job("1"), [2, 0, 3, 1], "job-0.svc", 29500),
        (&pytorch_job("auto"), [2, 0, 3, 1], "job-0.svc", 29500),
        (&pytorch_job("gpu"), [2, 0, 3, 1], "job-0.svc", 29500),
        (&indexed, [2, 0, 3, 1], "job-0.svc", 29500),
        // A launcher inside of all that is nearest.
        (&[&mpi_in_slurm[..], &FULL].concat(), [5, 1, 8, 4], "node0", 29500),
    ];
    for (pairs, place, address, port) in cases {
        assert_described(pairs, place, address, port, StorePort::Master);
    }
}

/// `pairs`, of equal names the last, are read as this.
fn assert_described(
    pairs: &[(&'static str, &'static str)],
    [rank, local_rank, world_size, local_world_size]: [usize; 4],
    address: &str,
    master_port: u16,
    store_port: StorePort,
) {
    // The last of equal names counts, as in a shell.
    let pairs: Vec<_> = pairs.iter().rev().copied().collect();
    let expected = RankEnv {
        rank,
        local_rank,
        world_size,
        local_world_size,
        master_addr: address.to_owned(),
        master_port,
        store_port,
    };
    assert_eq!(read(&pairs), Ok(Some(expected)), "{pairs:?}");
    assert_eq!(place(&pairs), Ok(Some((rank, world_size))), "{pairs:?}");
}

#[test]
fn ports_that_nobody_chose_are_looked_for() {
    let own: Vec<u16> = (0..8).map(|tried| 20_000 + (6_041 + tried * 1_013) % 10_000).collect();
    for (more, ports, starts) in [
        (&[][..], &own[..], 0),
        (&[("SLURM_RESTART_COUNT", "2")], &own, 2),
        (&[("SLURM_STEP_RESV_PORTS", "12000-12001,12010")], &[12000, 12001, 12010], 0),
    ] {
        let job = format!("slurm 4711.0, start {starts}");
        let store_port = StorePort::FirstFree { ports: ports.to_vec(), job };
        let pairs = [&SRUN[..], more].concat();
        assert_described(&pairs, [7, 3, 11, 4], "gpu003", ports[0], store_port);
    }
    // torchrun itself listens on the port that it names.
    let torchrun = [("TORCHELASTIC_USE_AGENT_STORE", "True"), ("TORCHELASTIC_RESTART_COUNT", "3")];
    for (machines, group) in [("1", "start_3"), ("2", "all")] {
        let pairs = [&FULL[..], &torchrun, &[("GROUP_WORLD_SIZE", machines)]].concat();
        let published = StorePort::Published { group: group.to_owned() };
        assert_described(&pairs, [5, 1, 8, 4], "node0", 29500, published);
    }
}

#[test]
fn a_batch_script_without_srun_is_a_single_process() {
    let script: Vec<_> =
        SRUN.into_iter().filter(|(name, _)| !name.starts_with("SLURM_STEP")).collect();
    assert_eq!(read(&script), Ok(None));
}

#[test]
fn contradictions_and_gaps_are_told() {
    let without = |pairs: &[(&'static str, &'static str)], gone: &str| -> Vec<_> {
        pairs.iter().copied().filter(|(name, _)| *name != gone).collect()
    };
    let with = |pairs: &[(&'static str, &'static str)], name, value| {
        let mut changed = without(pairs, name);
        changed.push((name, value));
        changed
    };
    let exported = [&SRUN[..], &MASTER, &[("RANK", "0"), ("WORLD_SIZE", "11")]].concat();
    let several = pod(&[("RANK", "1"), ("WORLD_SIZE", "8"), ("PET_NPROC_PER_NODE", "4")]);
    let indexed = [("JOB_COMPLETION_INDEX", "2"), ("WORLD_SIZE", "3")];
    for (pairs, expected) in [
        (exported, "RANK=0 contradicts SLURM_PROCID=7"),
        (several, "PET_NPROC_PER_NODE=4 asks for several processes in this pod"),
        (indexed.to_vec(), "JOB_COMPLETION_INDEX is set but MASTER_ADDR is not"),
        (without(&pod(&indexed), "MASTER_PORT"), "JOB_COMPLETION_INDEX is set but MASTER_PORT"),
        (OPEN_MPI.to_vec(), "OMPI_COMM_WORLD_RANK is set but MASTER_ADDR is not"),
        (without(&OPEN_MPI, "OMPI_COMM_WORLD_LOCAL_RANK"), "OMPI_COMM_WORLD_RANK is set but"),
        (with(&OPEN_MPI, "OMPI_COMM_WORLD_SIZE", "2"), "OMPI_COMM_WORLD_RANK=3 does not fit"),
        (without(&SRUN, "SLURM_LOCALID"), "SLURM_PROCID is set but SLURM_LOCALID is not"),
        (with(&SRUN, "SLURM_NODEID", "3"), "SLURM_NODEID=3 does not fit"),
        (with(&SRUN, "SLURM_LOCALID", "4"), "SLURM_LOCALID=4 does not fit"),
        (with(&SRUN, "SLURM_STEP_TASKS_PER_NODE", "4(x3)"), "SLURM_STEP_TASKS_PER_NODE=\"4(x3)\""),
        (with(&SRUN, "SLURM_STEP_RESV_PORTS", "12000-"), "SLURM_STEP_RESV_PORTS=\"12000-\" is no"),
        (with(&SRUN, "SLURM_STEP_NODELIST", "gpu[1-"), "SLURM_STEP_NODELIST=\"gpu[1-\" is no list"),
    ] {
        let message = read(&pairs).unwrap_err().to_string();
        assert!(message.starts_with(expected), "{message}");
    }
}
