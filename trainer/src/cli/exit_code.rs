//! Which failures are worth another try.

use std::io::ErrorKind;
use std::process::ExitCode;

use launch::rank_env::RankEnvError;
use pipeline::StreamError;
use pipeline::fetch::FetchError;
use trainer::checkpoint::CheckpointError;
use trainer::run::RunError;
use trainer::train::TrainError;
use trainer::weights::WeightsError;

/// The code of what a launcher does not start again, because it would fail in the same way.
const WRONG_INPUT: u8 = 2;

/// 2 for wrong settings, and for files that are not there or are of another kind; 1 for what may pass:
/// a store that does not answer, a rank that is gone, a full disk. `fetch` has codes of its own.
pub(crate) fn exit_code(error: &anyhow::Error) -> ExitCode {
    if let Some(error) = error.downcast_ref::<FetchError>() {
        return error.exit_code().into();
    }
    let is_wrong_input = error.is::<RankEnvError>()
        || error.downcast_ref().is_some_and(is_wrong_training)
        || error.downcast_ref().is_some_and(is_wrong_run)
        || error.downcast_ref().is_some_and(is_wrong_data);
    if is_wrong_input { WRONG_INPUT.into() } else { ExitCode::FAILURE }
}

fn is_wrong_training(error: &TrainError) -> bool {
    match error {
        TrainError::Config(_) => true,
        TrainError::Run(error) => is_wrong_run(error),
        TrainError::Stream(error) => is_wrong_data(error),
        _ => false,
    }
}

fn is_wrong_run(error: &RunError) -> bool {
    match error {
        RunError::NotUsable { .. } => true,
        RunError::Weights(error) | RunError::Checkpoint(CheckpointError::Weights(error)) => {
            is_wrong_file(error)
        }
        RunError::Checkpoint(_) => false,
    }
}

fn is_wrong_file(error: &WeightsError) -> bool {
    match error {
        WeightsError::Read { source, .. } => source.kind() == ErrorKind::NotFound,
        WeightsError::Folder { .. }
        | WeightsError::Extension { .. }
        | WeightsError::Format { .. }
        | WeightsError::UnknownGlobal { .. }
        | WeightsError::Keys(_)
        | WeightsError::MissingTensor { .. }
        | WeightsError::Config { .. } => true,
        _ => false,
    }
}

fn is_wrong_data(error: &StreamError) -> bool {
    matches!(
        error,
        StreamError::Config(_)
            | StreamError::Location { .. }
            | StreamError::NotBuilt { .. }
            | StreamError::UnknownSplit { .. }
            | StreamError::Settings { .. }
    )
}
