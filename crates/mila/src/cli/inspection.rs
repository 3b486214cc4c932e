//! What can be typed after `mila inspect`.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::{Format, ModelArgs, size};

#[derive(Args)]
#[command(after_help = "Examples:
  mila inspect runs/pets/best cat.jpg --map attention -o attention.png
  mila inspect vmamba-t cat.jpg --weights vmamba_t.pth --map input-gate -o gates.svg
  mila inspect runs/forget-gate/best cat.jpg --map forget-gate --format json > gates.json
  mila inspect runs/baseline/best cat.jpg --map token-norm --beside runs/no-norm/best -o norms.png
Gates and attention are those of every layer that has some. The numbers go to stdout, the picture to the file.")]
pub(crate) struct Inspect {
    #[command(flatten)]
    pub(crate) model: ModelArgs,
    /// Picture to look at
    #[arg(value_name = "IMAGE")]
    pub(crate) image: PathBuf,
    /// What to show
    #[arg(long, value_enum)]
    pub(crate) map: MapName,
    /// Picture to write, .png or .svg; default: numbers only
    #[arg(long, short, value_name = "OUT")]
    pub(crate) output: Option<PathBuf>,
    /// Another MODEL for the same picture; up to three times
    #[arg(long, value_name = "MODEL")]
    pub(crate) beside: Vec<String>,
    /// The place that looks, of --map attention: shares of the height and of the width
    #[arg(long, value_name = "Y,X", default_value = "0.5,0.5", value_parser = place)]
    pub(crate) at: Place,
    /// How the numbers are written
    #[arg(long, value_enum, default_value_t = Format::Table)]
    pub(crate) format: Format,
    /// Input height and width in pixels; default: the model's own
    #[arg(long, value_name = "HxW", value_parser = size)]
    pub(crate) size: Option<(usize, usize)>,
}

/// What can be shown of a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum MapName {
    /// How much of each token is let in: mean over channels of softplus step sizes
    InputGate,
    /// How much of the state a token leaves to the next: mean over tokens and state
    ForgetGate,
    /// How much one token looks at each: linear attention, or what recurrences imply
    Attention,
    /// Lengths of the tokens behind the mixing: their mean and standard deviation
    TokenNorm,
}

impl MapName {
    /// Every one.
    pub(crate) const ALL: [Self; 4] = [Self::InputGate, Self::ForgetGate, Self::Attention, Self::TokenNorm];

    /// As it is typed.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::InputGate => "input-gate",
            Self::ForgetGate => "forget-gate",
            Self::Attention => "attention",
            Self::TokenNorm => "token-norm",
        }
    }
}

/// Shares of the height and of the width.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place(pub(crate) [f64; 2]);

/// `Y,X`, each from 0 to 1.
fn place(text: &str) -> Result<Place, String> {
    let share = |part: &str| part.trim().parse().ok().filter(|share: &f64| (0.0..=1.0).contains(share));
    let parts = text.split_once(',').and_then(|(y, x)| Some(Place([share(y)?, share(x)?])));
    parts.ok_or_else(|| format!("expected Y,X, each from 0 to 1, such as 0.5,0.25, found `{text}`"))
}
