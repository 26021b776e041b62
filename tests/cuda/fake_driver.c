/* A CUDA driver without a GPU: memory is the process's own, kernels do nothing, every call that matters is written to a log. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static FILE *out;
static int capturing, nodes, graphs;
static int major = 9, minor = 0;

static void say(const char *text) { fputs(text, out); fputc('\n', out); fflush(out); }

int cuInit(unsigned flags) {
    out = fopen(getenv("FAKE_CUDA_LOG"), "a");
    const char *cc = getenv("FAKE_CUDA_CAPABILITY");
    if (cc) sscanf(cc, "%d.%d", &major, &minor);
    return out && !flags ? 0 : 999;
}
int cuDeviceGetCount(int *count) { const char *n = getenv("FAKE_CUDA_COUNT"); *count = n ? atoi(n) : 1; return 0; }
int cuDeviceGet(int *device, int number) { *device = number; return 0; }
int cuDeviceGetAttribute(int *value, int what, int device) { (void)device; *value = what == 75 ? major : minor; return 0; }
int cuDeviceGetName(char *name, int size, int device) { (void)device; snprintf(name, size, "a fake GPU"); return 0; }
int cuDriverGetVersion(int *version) { *version = 13000; return 0; }
int cuDevicePrimaryCtxRetain(void **context, int device) { (void)device; *context = &graphs; return 0; }
int cuCtxSetCurrent(void *context) { return context == &graphs ? 0 : 201; }
int cuStreamCreate(void **stream, unsigned flags) { (void)flags; *stream = &nodes; return 0; }
int cuStreamSynchronize(void *stream) { return stream == &nodes && !capturing ? 0 : 900; }
int cuMemAlloc_v2(uint64_t *address, size_t bytes) {
    void *p = aligned_alloc(256, (bytes + 255) / 256 * 256);
    if (!p) return 2;
    memset(p, 0xff, bytes);
    *address = (uint64_t)(uintptr_t)p;
    return 0;
}
int cuMemFree_v2(uint64_t address) { free((void *)(uintptr_t)address); return 0; }
int cuMemcpyHtoDAsync_v2(uint64_t to, const void *from, size_t bytes, void *stream) {
    (void)stream; memcpy((void *)(uintptr_t)to, from, bytes); return capturing ? 900 : 0;
}
int cuMemcpyDtoHAsync_v2(void *to, uint64_t from, size_t bytes, void *stream) {
    (void)stream; memcpy(to, (void *)(uintptr_t)from, bytes); return capturing ? 900 : 0;
}
int cuModuleLoadData(void **module, const void *image) { *module = (void *)image; return memcmp(image, "\177ELF", 4) ? 200 : 0; }
int cuModuleGetFunction(void **function, void *module, const char *name) { (void)module; *function = strdup(name); return 0; }
int cuFuncSetAttribute(void *function, int what, int value) {
    if (capturing) return 900;
    fprintf(out, "attribute %s %d %d\n", (char *)function, what, value);
    fflush(out);
    return value > 232448 ? 1 : 0;
}
/* The requirements of the driver's documentation; the map's first 8 bytes are the address. */
static int encode(void *map, int type, unsigned rank, void *address, const uint64_t *sizes, const uint64_t *strides, unsigned columns,
                  const unsigned *steps, int interleave, int swizzle, int fill) {
    unsigned item = type == 7 ? 4 : 2;
    if ((uintptr_t)map % 64 || (uintptr_t)address % 16 || rank > 5 || interleave || fill) return 1;
    if ((type != 6 && type != 7 && type != 9) || !columns || columns > 256) return 1;
    for (unsigned i = 0; i < rank; i++) {
        if (!sizes[i] || sizes[i] > 1ull << 32 || !steps[i] || steps[i] > 8) return 1;
        if (i && (strides[i - 1] % 16 || strides[i - 1] >= 1ull << 40 || strides[i - 1] < sizes[0] * item)) return 1;
    }
    if (columns * item % 16 || (swizzle == 3 && columns * item > 128)) return 1;
    memset(map, 0, 128);
    memcpy(map, &address, sizeof address);
    fprintf(out, "map %llx %d %u", (unsigned long long)(uintptr_t)address, type, rank);
    for (unsigned i = 0; i < rank; i++) fprintf(out, " %llu", (unsigned long long)sizes[i]);
    for (unsigned i = 1; i < rank; i++) fprintf(out, " %llu", (unsigned long long)strides[i - 1]);
    return 0;
}
int cuTensorMapEncodeTiled(void *map, int type, unsigned rank, void *address, const uint64_t *sizes, const uint64_t *strides,
                           const unsigned *box, const unsigned *steps, int interleave, int swizzle, int promotion, int fill) {
    if (!rank || encode(map, type, rank, address, sizes, strides, box[0], steps, interleave, swizzle, fill)) return 1;
    for (unsigned i = 1; i < rank; i++)
        if (!box[i] || box[i] > 256) return 1;
    fprintf(out, " %u %u %d %d\n", box[0], box[1], swizzle, promotion);
    fflush(out);
    return 0;
}
int cuTensorMapEncodeIm2col(void *map, int type, unsigned rank, void *address, const uint64_t *sizes, const uint64_t *strides,
                            const int *lower, const int *upper, unsigned channels, unsigned pixels, const unsigned *steps,
                            int interleave, int swizzle, int promotion, int fill) {
    if (rank != 4 || encode(map, type, rank, address, sizes, strides, channels, steps, interleave, swizzle, fill)) return 1;
    if (!pixels || pixels > 1024) return 1;
    for (int i = 0; i < 2; i++) {
        if (lower[i] < -128 || lower[i] > 127 || upper[i] < -128 || upper[i] > 127) return 1;
        if (lower[i] > (int64_t)sizes[1 + i] - 1 + upper[i]) return 1;
    }
    fprintf(out, " %u %u %d %d %d %d %d %d %u %u\n", channels, pixels, swizzle, promotion, lower[0], lower[1], upper[0], upper[1], steps[1],
            steps[2]);
    fflush(out);
    return 0;
}
int cuStreamBeginCapture_v2(void *stream, int mode) { (void)stream; (void)mode; capturing = 1; nodes = 0; say("begin"); return 0; }
int cuLaunchKernel(void *function, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz, unsigned shared,
                   void *stream, void **arguments, void **extra) {
    if (!capturing || stream != &nodes || by != 1 || bz != 1 || extra || !gx || !gy || !gz) return 1;
    const char *what = getenv("FAKE_CUDA_CRASH"), *name = function; /* kernels whose launch ends, stops or faults the process */
    if (what && strstr(name, what)) abort();
    what = getenv("FAKE_CUDA_HANG");
    if (what && strstr(name, what)) sleep(600);
    what = getenv("FAKE_CUDA_FAULT");
    if (what && strstr(name, what)) return 700;
    nodes++;
    fprintf(out, "launch %s %u %u %u %u %u %llx\n", (char *)function, gx, gy, gz, bx, shared, *(unsigned long long *)arguments[0]);
    fflush(out);
    return 0;
}
int cuStreamEndCapture(void *stream, void **graph) {
    (void)stream;
    capturing = 0;
    int *made = malloc(sizeof *made);
    *made = nodes;
    *graph = made;
    say("end");
    return 0;
}
int cuGraphInstantiateWithFlags(void **executable, void *graph, unsigned long long flags) {
    int *made = malloc(sizeof *made);
    *made = *(int *)graph;
    *executable = made;
    return flags ? 1 : 0;
}
int cuGraphDestroy(void *graph) { free(graph); return 0; }
int cuGraphLaunch(void *executable, void *stream) { (void)stream; fprintf(out, "replay %d\n", *(int *)executable); fflush(out); return 0; }
int cuGraphExecDestroy(void *executable) { free(executable); say("forget"); return 0; }
int cuGetErrorString(int status, const char **text) { *text = status == 2 ? "out of memory" : "fake failure"; return 0; }
int cuEventCreate(void **event, unsigned flags) { *event = &graphs; return flags ? 1 : 0; }
int cuEventRecord(void *event, void *stream) { return event == &graphs && stream == &nodes ? 0 : 400; }
int cuEventSynchronize(void *event) { return event == &graphs ? 0 : 400; }
int cuEventElapsedTime(float *milliseconds, void *begin, void *end) { (void)begin; (void)end; *milliseconds = 5; return 0; }
int cuEventDestroy_v2(void *event) { return event == &graphs ? 0 : 400; }
