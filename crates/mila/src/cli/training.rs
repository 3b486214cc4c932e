//! What can be typed after the verbs that train.

use std::path::PathBuf;

use clap::Args;

#[derive(Args)]
#[command(after_help = "Examples:\n  mila demo\n  mila demo --out digits --epochs 60 --seed 1")]
pub(crate) struct Demo {
    /// Run directory to make; default: mila-demo, or the next free name like it
    #[arg(long, value_name = "DIR")]
    pub(crate) out: Option<PathBuf>,
    /// Passes over the training digits
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) epochs: Option<u64>,
    /// Keys every random choice; one seed gives one result on one machine
    #[arg(long, default_value_t = 0)]
    pub(crate) seed: u64,
}

#[derive(Args)]
#[command(after_help = "Examples:
  mila train --data pets/ --arch mila-nano --out runs/pets
  mila train pets.toml --set epochs=60 --set lr=1e-3
  mila train --out runs/pets --resume
The config.toml of a run directory lists every setting with its value. Absent unless set: weights, drop_path, crop_pct, and
image_size, an array [HEIGHT, WIDTH].")]
pub(crate) struct Train {
    /// Configuration file
    #[arg(value_name = "CONFIG.toml")]
    pub(crate) config: Option<PathBuf>,
    /// Folder of class folders, or one that holds train and val
    #[arg(long, value_name = "DIR")]
    pub(crate) data: Option<PathBuf>,
    /// Architecture
    #[arg(long, value_name = "NAME")]
    pub(crate) arch: Option<String>,
    /// Run directory
    #[arg(long, value_name = "DIR")]
    pub(crate) out: Option<PathBuf>,
    /// Change a setting
    #[arg(long, value_name = "KEY=VALUE")]
    pub(crate) set: Vec<String>,
    /// Go on with the run in the run directory
    #[arg(long)]
    pub(crate) resume: bool,
}

#[derive(Args)]
#[command(after_help = "Examples:
  mila study                                                    # the studies and their variants
  mila study ablation --data cifar10/ --out runs/ablation
  mila study ablation --data cifar10/ --out runs/quick --variants baseline,rope --seeds 0 --passes 5000
A cell is one variant with one seed. The same command goes on where it was interrupted, and only writes the tables where
nothing is left: table.md, table.csv, table.json, differences.svg and differences.png in DIR. docs/study.md has the method.")]
pub(crate) struct Study {
    /// Which; without it: all are listed
    pub(crate) name: Option<String>,
    /// Folder of class folders, or one that holds train and val
    #[arg(long, requires = "name", value_name = "DIR")]
    pub(crate) data: Option<PathBuf>,
    /// Folder of the study, made or gone on with
    #[arg(long, requires = "name", value_name = "DIR")]
    pub(crate) out: Option<PathBuf>,
    /// These variants only, with commas between
    #[arg(long, requires = "name", value_name = "NAME,...", value_delimiter = ',')]
    pub(crate) variants: Vec<String>,
    /// Seeds, with commas between; default: the study's, 0,1,2
    #[arg(long, requires = "name", value_name = "N,...", value_delimiter = ',')]
    pub(crate) seeds: Vec<u64>,
    /// Training images that a cell sees, each as often as it is seen; default: the study's, 50000
    #[arg(long, requires = "name", value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) passes: Option<u32>,
    /// Cells to run now, at most; 0 only writes the tables
    #[arg(long, requires = "name", value_name = "N")]
    pub(crate) cells: Option<usize>,
    /// Cells to run at a time, each on its share of the threads; default: one a thread
    #[arg(long, requires = "name", value_name = "N", value_parser = clap::value_parser!(u32).range(1..=512))]
    pub(crate) jobs: Option<u32>,
    /// Change a setting of every training, as in `mila train`
    #[arg(long, requires = "name", value_name = "KEY=VALUE")]
    pub(crate) set: Vec<String>,
}
