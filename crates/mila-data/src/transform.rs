//! timm's evaluation transform (`transforms_imagenet_eval`, timm 1.0.31): resize, centre crop, normalise.
//!
//! `scale = floor(input_size / crop_pct)` per side. How the picture reaches it is the crop mode; the crop is torchvision's
//! `CenterCrop`: `round((size - crop) / 2)` with halves to even, and padding where the crop is larger than the picture.

use std::fmt;
use std::str::FromStr;

use crate::decode::Limits;
use crate::error::{Error, Result};
use crate::picture::Picture;
use crate::resize::{Axis, Interpolation, resize_window};

/// How the resized picture is fitted to the input size, by timm's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CropMode {
    /// The shorter side becomes `scale`; the aspect ratio stays; what is outside the crop is lost.
    Center,
    /// Each side becomes its `scale`; the aspect ratio changes.
    Squash,
    /// The longer side becomes `scale`; the rest is padded with the mean.
    Border,
}

impl fmt::Display for CropMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Center => "center",
            Self::Squash => "squash",
            Self::Border => "border",
        })
    }
}

impl FromStr for CropMode {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        match name {
            "center" => Ok(Self::Center),
            "squash" => Ok(Self::Squash),
            "border" => Ok(Self::Border),
            _ => Err(Error::Setting {
                setting: "crop_mode",
                expected: "center, squash or border",
                found: name.to_owned(),
            }),
        }
    }
}

/// The evaluation transform; field names as in timm's `pretrained_cfg`.
#[derive(Debug, Clone, PartialEq)]
pub struct EvalTransform {
    /// Height and width of the result, in pixels.
    pub input_size: (usize, usize),
    /// Share of the resized side that the crop keeps.
    pub crop_pct: f64,
    /// How the picture is fitted.
    pub crop_mode: CropMode,
    /// The resampling filter.
    pub interpolation: Interpolation,
    /// Mean of R, G, B in 0..1.
    pub mean: [f32; 3],
    /// Standard deviation of R, G, B in 0..1.
    pub std: [f32; 3],
}

impl Default for EvalTransform {
    /// timm's defaults: 224 pixels, 0.875, centre, bilinear, ImageNet's mean and deviation.
    fn default() -> Self {
        Self {
            input_size: (224, 224),
            crop_pct: 0.875,
            crop_mode: CropMode::Center,
            interpolation: Interpolation::Bilinear,
            mean: [0.485, 0.456, 0.406],
            std: [0.229, 0.224, 0.225],
        }
    }
}

impl EvalTransform {
    /// An error where a setting makes no sense.
    pub fn check(&self) -> Result<()> {
        let unfit = |setting, expected, found| Err(Error::Setting { setting, expected, found });
        let (height, width) = self.input_size;
        if height == 0 || width == 0 {
            return unfit("input_size", "sides of at least 1 pixel", format!("{height}x{width}"));
        }
        let pixels = (height as u64).checked_mul(width as u64);
        if pixels.is_none_or(|pixels| pixels > Limits::default().max_pixels) {
            return unfit("input_size", "at most 120 million pixels", format!("{height}x{width}"));
        }
        if !(self.crop_pct.is_finite() && self.crop_pct > 0.0) {
            return unfit("crop_pct", "a number above 0", self.crop_pct.to_string());
        }
        if self.scale_size().into_iter().any(|side| side == 0) {
            return unfit("crop_pct", "a resized side of at least 1 pixel", self.crop_pct.to_string());
        }
        if self.mean.iter().any(|mean| !mean.is_finite()) {
            return unfit("mean", "finite numbers", format!("{:?}", self.mean));
        }
        if self.std.iter().any(|std| !(std.is_finite() && *std > 0.0)) {
            return unfit("std", "numbers above 0", format!("{:?}", self.std));
        }
        Ok(())
    }

    fn scale_size(&self) -> [usize; 2] {
        [self.input_size.0, self.input_size.1].map(|side| (side as f64 / self.crop_pct).floor() as usize)
    }

    /// Height and width after resizing, before the crop.
    fn resized(&self, height: usize, width: usize) -> [usize; 2] {
        let scale = self.scale_size();
        let (h, w) = (height as f64, width as f64);
        let ratios = [h / scale[0] as f64, w / scale[1] as f64];
        // timm's ResizeKeepRatio; Python's round takes halves to even.
        let keep_ratio = |ratio: f64| [h / ratio, w / ratio].map(|side| side.round_ties_even() as usize);
        match self.crop_mode {
            CropMode::Squash => scale,
            CropMode::Border => keep_ratio(ratios[0].max(ratios[1])),
            // torchvision's Resize to one number: the longer side is cut off, not rounded.
            CropMode::Center if scale[0] == scale[1] && w <= h => [(scale[0] as f64 * h / w) as usize, scale[0]],
            CropMode::Center if scale[0] == scale[1] => [scale[0], (scale[0] as f64 * w / h) as usize],
            CropMode::Center => keep_ratio(ratios[0].min(ratios[1])),
        }
    }

    /// The resized and cropped picture of `input_size`, before normalisation.
    ///
    /// Errors: settings that [`EvalTransform::check`] refuses, and an intermediate picture above the default limits.
    pub fn picture(&self, picture: &Picture) -> Result<Picture> {
        self.check()?;
        let resized = self.resized(picture.height(), picture.width());
        let rows = Window::center(resized[0], self.input_size.0);
        let columns = Window::center(resized[1], self.input_size.1);
        let inner = resize_window(picture, rows.axis, columns.axis, self.interpolation)?;
        if (inner.height(), inner.width()) == self.input_size {
            return Ok(inner);
        }
        let border = match self.crop_mode {
            CropMode::Border => self.mean.map(|mean| (255.0 * f64::from(mean)).round_ties_even() as u8),
            CropMode::Center | CropMode::Squash => [0; 3],
        };
        Ok(Picture::build(self.input_size.0, self.input_size.1, |y, x| {
            match (y.checked_sub(rows.pad), x.checked_sub(columns.pad)) {
                (Some(y), Some(x)) if y < inner.height() && x < inner.width() => inner.at(y, x),
                _ => border,
            }
        }))
    }

    /// `(value / 255 - mean) / std` of every byte of `pixels`, `[.., 3]`, appended to `map`.
    pub fn normalise(&self, pixels: &[u8], map: &mut Vec<f32>) {
        let table: [[f32; 3]; 256] = std::array::from_fn(|value| {
            std::array::from_fn(|channel| (value as f32 / 255.0 - self.mean[channel]) / self.std[channel])
        });
        let (pixels, _) = pixels.as_chunks::<3>();
        let channel = |[r, g, b]: &[u8; 3]| [table[*r as usize][0], table[*g as usize][1], table[*b as usize][2]];
        map.extend(pixels.iter().flat_map(channel));
    }

    /// The whole transform: `[height, width, 3]` of `input_size`, row-major, normalised.
    pub fn to_nhwc(&self, picture: &Picture) -> Result<Vec<f32>> {
        let picture = self.picture(picture)?;
        let mut map = Vec::with_capacity(picture.pixels().len());
        self.normalise(picture.pixels(), &mut map);
        Ok(map)
    }
}

/// Where the crop lies on one axis: the part of the resized picture, and the padding before it.
struct Window {
    axis: Axis,
    pad: usize,
}

impl Window {
    fn center(resized: usize, crop: usize) -> Self {
        if crop > resized {
            return Self { axis: Axis { full: resized, start: 0, length: resized }, pad: (crop - resized) / 2 };
        }
        let start = ((resized - crop) as f64 / 2.0).round_ties_even() as usize;
        Self { axis: Axis { full: resized, start, length: crop }, pad: 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn transform(input_size: (usize, usize), crop_pct: f64, crop_mode: CropMode) -> EvalTransform {
        EvalTransform { input_size, crop_pct, crop_mode, ..EvalTransform::default() }
    }

    #[test]
    fn sizes_follow_torchvision_and_timm() {
        let center = transform((224, 224), 0.875, CropMode::Center);
        assert_eq!(center.resized(500, 333), [384, 256]);
        assert_eq!(center.resized(333, 500), [256, 384]);
        assert_eq!(center.resized(3, 500), [256, 42_666]);
        assert_eq!(transform((224, 224), 0.95, CropMode::Center).resized(240, 240), [235, 235]);
        assert_eq!(transform((100, 224), 1.0, CropMode::Center).resized(300, 300), [224, 224]);
        assert_eq!(transform((100, 224), 1.0, CropMode::Squash).resized(5, 300), [100, 224]);
        assert_eq!(transform((64, 64), 1.0, CropMode::Border).resized(100, 50), [64, 32]);
    }

    #[test]
    fn the_crop_rounds_halves_to_even_and_pads_before_with_the_smaller_half() {
        let start = |resized, crop| Window::center(resized, crop).axis.start;
        assert_eq!([start(10, 9), start(11, 8), start(13, 8), start(8, 8)], [0, 2, 2, 0]);
        assert_eq!(Window::center(5, 8).pad, 1);
    }

    #[test]
    fn a_picture_of_the_input_size_keeps_its_bytes() {
        let picture = Picture::from_grey(3, 3, &[0, 1, 2, 3, 4, 5, 6, 7, 255]).unwrap();
        let same = transform((3, 3), 1.0, CropMode::Center);
        assert_eq!(same.picture(&picture).unwrap(), picture);
        let map = same.to_nhwc(&picture).unwrap();
        assert_eq!(map[..3], [(0.0 - 0.485) / 0.229, (0.0 - 0.456) / 0.224, (0.0 - 0.406) / 0.225]);
        assert_eq!(map[24], (1.0 - 0.485) / 0.229);
    }

    #[test]
    fn a_long_thin_picture_needs_no_large_intermediate() {
        let strip = Picture::from_grey(1, 65_535, &[9; 65_535]).unwrap();
        let small = EvalTransform::default().picture(&strip).unwrap();
        assert_eq!((small.height(), small.width(), small.at(100, 100)), (224, 224, [9; 3]));
    }

    #[test]
    fn senseless_settings_are_errors() {
        let picture = Picture::from_grey(1, 1, &[0]).unwrap();
        for (size, pct) in [((0, 4), 1.0), ((4, 4), 0.0), ((4, 4), f64::NAN), ((4, 4), 10.0)] {
            assert!(transform(size, pct, CropMode::Center).picture(&picture).is_err());
        }
        let flat = EvalTransform { std: [0.0; 3], ..EvalTransform::default() };
        assert!(matches!(flat.to_nhwc(&picture), Err(Error::Setting { setting: "std", .. })));
        assert_eq!("border".parse::<CropMode>().unwrap().to_string(), "border");
    }
}
