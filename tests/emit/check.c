/* Run a library in every way it offers and compare bytes: check INPUT WANTED BATCH [WEIGHTS]. PREFIX names its functions. */
#include HEADER
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define JOIN2(a, b) a##_##b
#define JOIN(a, b) JOIN2(a, b)
#define F(name) JOIN(PREFIX, name)

static float *input, *wanted;
static size_t in_bytes, out_bytes;
static long batch;

static void *slurp(const char *path, size_t *bytes) {
    FILE *file = fopen(path, "rb");
    if (!file) exit(20);
    fseek(file, 0, SEEK_END);
    *bytes = (size_t)ftell(file);
    rewind(file);
    void *data = malloc(*bytes);
    if (!data || fread(data, 1, *bytes, file) != *bytes) exit(21);
    fclose(file);
    return data;
}

static void compare(const void *got, const char *what) {
    if (memcmp(got, wanted, out_bytes)) {
        fprintf(stderr, "%s: other bytes\n", what);
        exit(1);
    }
}

static void *caller(void *model) {
    void *out = malloc(out_bytes);
    const void *inputs[] = {input};
    void *outputs[] = {out};
    for (int i = 0; i < 5; i++) {
        memset(out, 255, out_bytes);
        if (F(run)(model, batch, inputs, outputs)) exit(2);
        compare(out, "run");
    }
    free(out);
    return NULL;
}

struct part { PREFIX *model; int tid; };

static void *helper(void *argument) {
    struct part *part = argument;
    F(share)(part->model, part->tid);
    return NULL;
}

int main(int count, char **arguments) {
    if (count < 4) return 9;
    const char *weights = count > 4 ? arguments[4] : NULL;
    input = slurp(arguments[1], &in_bytes);
    wanted = slurp(arguments[2], &out_bytes);
    batch = atol(arguments[3]);
    PREFIX *model, *second;
    if (F(create)(NULL, weights, 1) != CNNGRAPH_INVALID || F(create)(&model, weights, -1) != CNNGRAPH_INVALID) return 3;
    if (F(create)(&model, "/nonexistent/file", 1) == CNNGRAPH_OK && weights) return 4;
    F(destroy)(model);
    for (int threads = 0; threads <= 3; threads++) {
        if (F(create)(&model, weights, threads) || F(create)(&second, weights, threads)) return 5;
        pthread_t callers[3];
        for (int i = 0; i < 3; i++) pthread_create(callers + i, NULL, caller, i == 2 ? second : model);
        for (int i = 0; i < 3; i++) pthread_join(callers[i], NULL);
        F(destroy)(second);
        void *out = malloc(out_bytes);
        const void *inputs[] = {input}, *none[] = {NULL};
        void *outputs[] = {out};
        for (int team = 1; team <= 3; team++) {
            struct part parts[3];
            memset(out, 255, out_bytes);
            if (F(begin)(model, batch, inputs, outputs, team)) return 6;
            for (int i = 0; i < team; i++) {
                parts[i].model = model;
                parts[i].tid = i;
                pthread_create(callers + i, NULL, helper, parts + i);
            }
            for (int i = 0; i < team; i++) pthread_join(callers[i], NULL);
            compare(out, "share");
        }
        if (F(run)(model, -1, inputs, outputs) != CNNGRAPH_INVALID || F(run)(model, batch, none, outputs) != CNNGRAPH_INVALID ||
            F(run)(model, batch, NULL, outputs) != CNNGRAPH_INVALID || F(run)(NULL, batch, inputs, outputs) != CNNGRAPH_INVALID ||
            F(run)(model, INT64_MAX, inputs, outputs) != CNNGRAPH_INVALID)
            return 7;
        if (F(memory)(model, batch, 2) <= 0 || F(memory)(model, INT64_MAX, 2) != -1) return 8;
        free(out);
        F(destroy)(model);
    }
    F(destroy)(NULL);
    if (F(input)(-1) || F(input)(F(inputs)()) || F(output)(F(outputs)()) || !F(input)(0)->name || !F(message)(99)) return 10;
    free(input);
    free(wanted);
    puts("ok");
    return 0;
}
