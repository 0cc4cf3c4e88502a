"""The picture before the network: decoding, background, the authors' crop and resize. numpy, scipy and Pillow."""
