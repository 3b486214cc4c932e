//! Pictures of the mechanism: what the gates of every layer of a trained model do, whom its tokens look at, and how long the
//! tokens become, as numbers and as SVG and PNG.
//!
//! [`layers`] runs a model once and looks at every layer that mixes tokens. It knows no model: what a map is for, the model says
//! itself ([`mila_ops::Mechanism`]). [`heat_maps`] and [`layer_chart`] draw what it returns; [`bars`], [`lines`] and
//! [`contact_sheet`] are the pictures of other commands.
//!
//! ```
//! use mila_cpu::Cpu;
//! use mila_models::{Preset, Task};
//! use mila_ops::reference::Array;
//! use mila_ops::{Dims, Seeded};
//!
//! let mut cpu = Cpu::default();
//! let preset = Preset::find("ablation-forget-gate-32")?;
//! let model = preset.build(&mut cpu, &Seeded::new(0), Task::Classify { classes: 10 })?;
//! let image = Array::new(Dims::new(1, 32, 32, 3), vec![0.0; 32 * 32 * 3]);
//! let layers = mila_inspect::layers(&cpu, model.as_ref(), &image, None)?;
//! assert_eq!(layers.len(), 5);
//! assert_eq!(layers[0].name, "layers.0.blocks.0.attn");
//! assert!(layers.iter().all(|layer| matches!(layer.forget_gates[..], [gate] if 0.0 < gate && gate < 1.0)));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod attention;
pub mod bars;
mod colour_map;
pub mod contact_sheet;
mod drawing;
mod gates;
mod heading;
pub mod heat_maps;
mod implied;
mod labels;
mod layer;
pub mod layer_chart;
pub mod lines;
mod pixel_font;

pub use drawing::Drawing;
pub use heading::Heading;
pub use layer::{Layer, Spread, TokenMap, layers};
