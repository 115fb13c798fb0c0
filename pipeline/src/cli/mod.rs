//! The commands of `hqseg`.

mod arguments;
mod bench;
mod bench_order;
mod build;
mod doctor;
mod fetch;
mod inspect;
mod stats;
mod trace;
mod verify;

use std::error::Error;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use dataset::draw::draw_collection;
use dataset::source::Layout;
use pipeline::fetch::FetchArguments;

type CliResult = Result<(), Box<dyn Error>>;

const ENVIRONMENT: &str = "\
Environment:
  HQSEG_CACHE_DIR  Folder that keeps rows of data sets in a store, for later epochs and runs
  HQSEG_CACHE_GIB  Most GiB it holds [default: 32]
  HQSEG_LOG        What is logged: error, warn, info, debug [default: info]";

/// Builds verified data sets of images and masks for training HQ-SAM.
#[derive(Parser)]
#[command(name = "hqseg", version, about, after_help = ENVIRONMENT)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Build a data set from raw collections; a second run continues or finds nothing to do.
    #[command(
        after_help = "Example:\n  hqseg build my_data.toml\n  hqseg build --auto data/raw --output data/all"
    )]
    Build(BuildArguments),
    /// Draw a synthetic collection with exact masks, in a published collection's own layout.
    #[command(after_help = "Example:\n  hqseg draw data/drawn --count 100 --layout ecssd")]
    Draw(DrawArguments),
    /// Download raw collections, or say where to ask for them.
    #[command(
        after_help = "Example:\n  hqseg fetch --list\n  hqseg fetch hqseg44k --accept-license"
    )]
    Fetch(FetchArguments),
    /// Print what a data set holds.
    #[command(after_help = "Example:\n  hqseg inspect data/mine --split val --row 3")]
    Inspect(inspect::InspectArguments),
    /// Check this machine, a build configuration or a data set, and say what to do.
    #[command(after_help = "Example:\n  hqseg doctor my_data.toml")]
    Doctor(doctor::DoctorArguments),
    /// Print how large images, masks and boxes of a data set are, without decoding anything.
    #[command(after_help = "Example:\n  hqseg stats data/mine")]
    Stats(stats::StatsArguments),
    /// Measure the speed of a data set on this machine.
    #[command(after_help = "Example:\n  hqseg bench stream data/mine --threads 2 --json")]
    Bench(bench::BenchArguments),
    /// Print the samples, prompts and pixel hashes of a rank's training steps.
    #[command(after_help = "Example:\n  hqseg trace data/mine --steps 3 --global-batch 4")]
    Trace(trace::TraceArguments),
    /// Read every shard and compare it with the manifest; on request decode every row.
    #[command(after_help = "Example:\n  hqseg verify data/mine --decode")]
    Verify(verify::VerifyArguments),
}

#[derive(Args)]
struct BuildArguments {
    /// Build configuration (.toml).
    #[arg(required_unless_present = "auto", conflicts_with = "auto")]
    config: Option<PathBuf>,
    /// Recognise the raw collections in this folder instead of reading a configuration.
    #[arg(long, value_name = "FOLDER", requires = "output")]
    auto: Option<PathBuf>,
    /// Folder or URL of the data set; replaces the configuration's `output`.
    #[arg(long)]
    output: Option<String>,
    /// With --auto: share of what each collection trains on that goes to the split `val`.
    #[arg(long, default_value_t = 0.2, requires = "auto")]
    holdout: f64,
    /// Override a setting, for instance `source.ECSSD.root=raw/ECSSD`. May be repeated.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    overrides: Vec<String>,
    /// Decoding threads (default: one per core).
    #[arg(long, value_parser = arguments::threads)]
    threads: Option<usize>,
    /// Stop at the first refused pair.
    #[arg(long)]
    strict: bool,
    /// Where several ranks share the build: stay until all are done and the data set is published.
    #[arg(long)]
    wait: bool,
    /// This process among the ranks that share the build (default: as the environment of launch,
    /// torchrun, Slurm or a Kubernetes indexed job says).
    #[arg(long, requires = "world")]
    rank: Option<usize>,
    /// Number of ranks that share the build; 1 ignores the environment.
    #[arg(long)]
    world: Option<usize>,
    /// Leave out the sources that are not known to permit commercial use.
    #[arg(long)]
    commercial_only: bool,
}

#[derive(Args)]
struct DrawArguments {
    /// Folder to draw into; with `--layout all`, one folder per layout below it.
    output: PathBuf,
    /// Pairs per collection.
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u64).range(1..))]
    count: u64,
    /// The same seed draws the same pictures.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Layout of the files.
    #[arg(long, value_enum, default_value = "ecssd")]
    layout: DrawLayout,
}

/// Layouts that can be drawn; `custom` has none of its own.
#[derive(Clone, Copy, ValueEnum)]
enum DrawLayout {
    All,
    Ecssd,
    Duts,
    #[value(name = "fss_1000")]
    Fss1000,
    #[value(name = "msra_10k")]
    Msra10k,
    #[value(name = "dut_omron")]
    DutOmron,
    Dis5k,
    #[value(name = "thin_object_5k")]
    ThinObject5k,
    Big,
}

/// The layouts behind `--layout all`, and the folder each goes to.
const COLLECTIONS: [(Layout, &str); 7] = [
    (Layout::Ecssd, "ECSSD"),
    (Layout::Duts, "DUTS"),
    (Layout::Fss1000, "FSS-1000"),
    (Layout::Msra10k, "MSRA10K"),
    (Layout::DutOmron, "DUT-OMRON"),
    (Layout::Dis5k, "DIS5K"),
    (Layout::ThinObject5k, "ThinObject5K"),
];

pub(crate) fn run(arguments: Arguments) -> CliResult {
    match arguments.command {
        Command::Build(arguments) => build::run(arguments),
        Command::Draw(arguments) => draw(&arguments),
        Command::Fetch(arguments) => fetch::run(&arguments),
        Command::Inspect(arguments) => inspect::run(&arguments),
        Command::Doctor(arguments) => doctor::run(&arguments),
        Command::Stats(arguments) => stats::run(&arguments),
        Command::Bench(arguments) => bench::run(&arguments),
        Command::Trace(arguments) => trace::run(&arguments),
        Command::Verify(arguments) => verify::run(&arguments),
    }
}

fn draw(arguments: &DrawArguments) -> CliResult {
    let layout = match arguments.layout {
        DrawLayout::All => {
            for (layout, name) in COLLECTIONS {
                let folder = arguments.output.join(name);
                draw_collection(&folder, layout, arguments.count, arguments.seed)?;
                tracing::info!(folder = %folder.display(), pairs = arguments.count, "drawn");
            }
            return Ok(());
        }
        DrawLayout::Ecssd => Layout::Ecssd,
        DrawLayout::Duts => Layout::Duts,
        DrawLayout::Fss1000 => Layout::Fss1000,
        DrawLayout::Msra10k => Layout::Msra10k,
        DrawLayout::DutOmron => Layout::DutOmron,
        DrawLayout::Dis5k => Layout::Dis5k,
        DrawLayout::ThinObject5k => Layout::ThinObject5k,
        DrawLayout::Big => Layout::Big,
    };
    draw_collection(&arguments.output, layout, arguments.count, arguments.seed)?;
    tracing::info!(folder = %arguments.output.display(), pairs = arguments.count, "drawn");
    Ok(())
}

#[cfg(test)]
mod tests {
    use pipeline::stream::{CACHE_DIR_VARIABLE, CACHE_GIB_VARIABLE};

    use super::*;

    #[test]
    fn the_help_names_every_variable_of_the_environment() {
        for variable in [CACHE_DIR_VARIABLE, CACHE_GIB_VARIABLE, "HQSEG_LOG"] {
            assert!(ENVIRONMENT.contains(variable), "{variable}");
        }
    }

    #[test]
    fn every_command_shows_an_example() {
        use clap::CommandFactory;
        for command in Arguments::command().get_subcommands() {
            let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            let name = command.get_name();
            assert!(help.contains(&format!("Example:\n  hqseg {name} ")), "{name}: {help}");
        }
    }
}
