/* Classify pictures of handwritten digits: ./classify digit.pgm ...   (see the Makefile) */
#include "digits.h"

#include <stdio.h>
#include <stdlib.h>

static void fail(const char *what, const char *why) {
    fprintf(stderr, "error: %s: %s\n", what, why);
    exit(1);
}

/* Read a binary PGM of the given size into numbers from 0 to 1. */
static void read_pgm(const char *path, float *pixels, int rows, int columns) {
    FILE *file = fopen(path, "rb");
    int width, height, most, value;
    if (!file) fail(path, "cannot be opened");
    if (fscanf(file, "P5 %d %d %d", &width, &height, &most) != 3 || fgetc(file) == EOF) fail(path, "is no binary PGM");
    if (width != columns || height != rows || most < 1 || most > 255) fail(path, "has another size than the network's images");
    for (int i = 0; i < rows * columns; i++) {
        if ((value = fgetc(file)) == EOF) fail(path, "is truncated");
        pixels[i] = (float)value / (float)most;
    }
    fclose(file);
}

int main(int count, char **arguments) {
    int images = count - 1;
    const cnngraph_tensor *in = digits_input(0), *out = digits_output(0);
    if (images < 1) fail("usage", "classify digit.pgm ...");

    digits *model;
    int status = digits_create(&model, NULL, 0);
    if (status) fail("create", digits_message(status));

    int rows = (int)in->fixed[2], columns = (int)in->fixed[3], classes = (int)out->fixed[1];
    float *pixels = malloc(sizeof(float) * (size_t)(images * rows * columns));
    float *scores = malloc(sizeof(float) * (size_t)(images * classes));
    if (!pixels || !scores) fail("malloc", "out of memory");
    for (int i = 0; i < images; i++) read_pgm(arguments[1 + i], pixels + i * rows * columns, rows, columns);

    const void *inputs[] = {pixels};
    void *outputs[] = {scores};
    status = digits_run(model, images, inputs, outputs);
    if (status) fail("run", digits_message(status));

    for (int i = 0; i < images; i++) {
        const float *row = scores + i * classes;
        int best = 0;
        for (int c = 1; c < classes; c++)
            if (row[c] > row[best]) best = c;
        printf("%s: %d (%.1f %%)\n", arguments[1 + i], best, 100.0 * row[best]);
    }
    free(pixels);
    free(scores);
    digits_destroy(model);
    return 0;
}
