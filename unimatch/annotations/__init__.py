"""What the files of annotation tools say, as shapes with labels. Recipes and images are not known here.

- labels: which class a label of a file means; drawing: what a file says of one picture
- shapes: shapes to masks; outlines: masks to shapes; geometry: rectangles, ellipses and bitmaps as shapes
- labelme, supervisely, yolo: a file an image; cvat, label_studio, brush, coco: a file for many
- pictures, names: the pictures of such a file, and which of them an image on disk is
"""
