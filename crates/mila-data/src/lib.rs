//! Images: decoding, orientation, resizing, evaluation transforms, class-folder datasets.
