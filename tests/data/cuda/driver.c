/* A CUDA driver library that has no GPU: memory of the "GPU" is memory of the host, and work is done at once.
 *
 * It stands in for libcuda.so.1 so that ctypes, pycuda and cuda-python can be run for real. What it does is what
 * cuda.h says of the call; whatever it is not told to do it refuses, so that a wrong order of arguments shows.
 *
 * HWBENCH_FAKE_INIT=803       cuInit gives that result
 * HWBENCH_FAKE_COUNT=2        so many GPUs (one, if not said)
 * HWBENCH_FAKE_VERSION=12040  the CUDA version
 * HWBENCH_FAKE_MIG=1          GPU 0 is part of a divided one
 *
 * Addresses of the GPU are not addresses of the host (FAR is added), so a mix-up is refused. Every piece of work takes
 * a millisecond of the GPU's own clock. The one kernel is axpy(const float *x, float *y, int n, float a): y += a x.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef int CUresult;
typedef int CUdevice;
typedef uint64_t Address;

enum {
    OK = 0, INVALID_VALUE = 1, OUT_OF_MEMORY = 2, NOT_INITIALISED = 3, INVALID_DEVICE = 101, INVALID_IMAGE = 200,
    INVALID_CONTEXT = 201, INVALID_HANDLE = 400, NOT_FOUND = 500, NOT_READY = 600, LAUNCH_RESOURCES = 701,
    NOT_SUPPORTED = 801, CAPTURE_UNSUPPORTED = 900, CAPTURE_INVALIDATED = 901,
};

static int said(const char *name, int otherwise) {
    const char *text = getenv(name);
    return text ? atoi(text) : otherwise;
}

static int initialised = 0;

static int count(void) { return said("HWBENCH_FAKE_COUNT", 1); }

CUresult cuInit(unsigned int flags) {
    if (flags != 0) return INVALID_VALUE;
    CUresult result = said("HWBENCH_FAKE_INIT", OK);
    initialised = result == OK;
    return result;
}

CUresult cuDriverGetVersion(int *version) {
    if (!version) return INVALID_VALUE;
    *version = said("HWBENCH_FAKE_VERSION", 13000);
    return OK;
}

CUresult cuGetErrorName(CUresult error, const char **text) {
    static const struct { CUresult error; const char *name; } names[] = {
        {0, "CUDA_SUCCESS"}, {1, "CUDA_ERROR_INVALID_VALUE"}, {3, "CUDA_ERROR_NOT_INITIALIZED"},
        {100, "CUDA_ERROR_NO_DEVICE"}, {803, "CUDA_ERROR_SYSTEM_DRIVER_MISMATCH"},
        {2, "CUDA_ERROR_OUT_OF_MEMORY"}, {200, "CUDA_ERROR_INVALID_IMAGE"}, {201, "CUDA_ERROR_INVALID_CONTEXT"},
        {400, "CUDA_ERROR_INVALID_HANDLE"}, {500, "CUDA_ERROR_NOT_FOUND"}, {600, "CUDA_ERROR_NOT_READY"},
        {701, "CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES"}, {901, "CUDA_ERROR_STREAM_CAPTURE_INVALIDATED"},
        {900, "CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED"}, {999, "CUDA_ERROR_UNKNOWN"},
    };
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (names[i].error == error) { *text = names[i].name; return OK; }
    *text = NULL;
    return INVALID_VALUE;
}

CUresult cuDeviceGetCount(int *found) {
    if (!initialised) return NOT_INITIALISED;
    *found = count();
    return OK;
}

CUresult cuDeviceGet(CUdevice *device, int ordinal) {
    if (!initialised) return NOT_INITIALISED;
    if (ordinal < 0 || ordinal >= count()) return INVALID_DEVICE;
    *device = ordinal;
    return OK;
}

CUresult cuDeviceGetName(char *name, int length, CUdevice device) {
    if (device < 0 || device >= count()) return INVALID_DEVICE;
    snprintf(name, length, "Fake GPU %d", device);
    return OK;
}

CUresult cuDeviceTotalMem_v2(size_t *bytes, CUdevice device) {
    if (device < 0 || device >= count()) return INVALID_DEVICE;
    *bytes = (size_t)8 << 30;
    return OK;
}

CUresult cuDeviceGetUuid(unsigned char *uuid, CUdevice device) {
    if (device < 0 || device >= count()) return INVALID_DEVICE;
    for (int i = 0; i < 16; i++) uuid[i] = (unsigned char)(16 * device + i);
    return OK;
}

CUresult cuDeviceGetUuid_v2(unsigned char *uuid, CUdevice device) {
    CUresult result = cuDeviceGetUuid(uuid, device);
    if (result == OK && device == 0 && said("HWBENCH_FAKE_MIG", 0)) uuid[0] = 0xaa;
    return result;
}

CUresult cuDeviceGetAttribute(int *value, int attribute, CUdevice device) {
    if (device < 0 || device >= count()) return INVALID_DEVICE;
    switch (attribute) {
        case 75: *value = 8; return OK;       /* compute capability, major */
        case 76: *value = 7; return OK;       /* minor */
        case 18: *value = 1; return OK;       /* integrated */
        case 16: *value = 14; return OK;      /* multiprocessors */
        case 38: *value = 4 << 20; return OK; /* bytes of the L2 cache */
        case 13: *value = 1300000; return OK; /* clock in kHz */
        default: return INVALID_VALUE;
    }
}

CUresult cuDeviceComputeCapability(int *major, int *minor, CUdevice device) {
    CUresult result = cuDeviceGetAttribute(major, 75, device);
    return result ? result : cuDeviceGetAttribute(minor, 76, device);
}

CUresult cuGetErrorString(CUresult error, const char **text) {
    static char words[32][64];
    static int next = 0;
    const char *name;
    CUresult result = cuGetErrorName(error, &name);
    if (result) { *text = NULL; return result; }
    char *words_of = words[next++ % 32];
    snprintf(words_of, 64, "words of %s", name);
    *text = words_of;
    return OK;
}

/* ---- contexts: the primary one of each device, and which is current in a thread */

typedef struct { CUdevice device; int users; unsigned flags; } Context;
static Context primaries[8] = {{0, 0, 0}, {1, 0, 0}, {2, 0, 0}, {3, 0, 0}, {4, 0, 0}, {5, 0, 0}, {6, 0, 0}, {7, 0, 0}};
static _Thread_local Context *stack[16];
static _Thread_local int depth = 0;

static Context *current(void) { return depth ? stack[depth - 1] : NULL; }

CUresult cuDevicePrimaryCtxRetain(Context **context, CUdevice device) {
    if (!initialised) return NOT_INITIALISED;
    if (device < 0 || device >= count()) return INVALID_DEVICE;
    primaries[device].users++;
    *context = &primaries[device];
    return OK;
}

CUresult cuDevicePrimaryCtxRelease_v2(CUdevice device) {
    if (device < 0 || device >= count()) return INVALID_DEVICE;
    if (!primaries[device].users) return INVALID_CONTEXT;
    primaries[device].users--;
    return OK;
}

CUresult cuDevicePrimaryCtxSetFlags_v2(CUdevice device, unsigned flags) {
    if (device < 0 || device >= count()) return INVALID_DEVICE;
    primaries[device].flags = flags;
    return OK;
}

CUresult cuDevicePrimaryCtxGetState(CUdevice device, unsigned *flags, int *active) {
    if (device < 0 || device >= count()) return INVALID_DEVICE;
    *flags = primaries[device].flags;
    *active = primaries[device].users > 0;
    return OK;
}

CUresult cuCtxPushCurrent_v2(Context *context) {
    if (!context || !context->users) return INVALID_CONTEXT;
    stack[depth++] = context;
    return OK;
}

CUresult cuCtxPopCurrent_v2(Context **context) {
    if (!depth) return INVALID_CONTEXT;
    *context = stack[--depth];
    return OK;
}

CUresult cuCtxSetCurrent(Context *context) {
    if (!context || !context->users) return INVALID_CONTEXT;
    if (!depth) depth = 1;
    stack[depth - 1] = context;
    return OK;
}

CUresult cuCtxGetCurrent(Context **context) { *context = current(); return OK; }

CUresult cuCtxGetDevice(CUdevice *device) {
    if (!current()) return INVALID_CONTEXT;
    *device = current()->device;
    return OK;
}

CUresult cuCtxSynchronize(void) { return current() ? OK : INVALID_CONTEXT; }

/* ---- memory */

static const Address FAR = (Address)1 << 60;
enum { MOST = 4096 };
typedef struct { char *start; size_t size; int pinned; } Memory;
static Memory memories[MOST];
static __thread int capturing = 0; /* streams of this thread */

static CUresult take(size_t size, int pinned, char **start) {
    if (!current()) return INVALID_CONTEXT;
    if (!size) return INVALID_VALUE;
    if (capturing) return CAPTURE_UNSUPPORTED;
    if (size > (size_t)1 << 32) return OUT_OF_MEMORY;
    for (int i = 0; i < MOST; i++)
        if (!memories[i].start) {
            memories[i] = (Memory){malloc(size), size, pinned};
            memset(memories[i].start, 0xcd, size);
            *start = memories[i].start;
            return OK;
        }
    return OUT_OF_MEMORY;
}

static CUresult give(char *start, int pinned) {
    for (int i = 0; i < MOST; i++)
        if (start && memories[i].start == start && memories[i].pinned == pinned) {
            free(start);
            memories[i] = (Memory){NULL, 0, 0};
            return OK;
        }
    return INVALID_VALUE;
}

/* Returns where on the host that piece of the GPU's memory lies, or NULL. */
static char *piece(Address address, size_t size) {
    char *start = (char *)(address - FAR);
    if (address < FAR) return NULL;
    for (int i = 0; i < MOST; i++) {
        Memory *m = &memories[i];
        if (m->start && !m->pinned && start >= m->start && start + size <= m->start + m->size) return start;
    }
    return NULL;
}

CUresult cuMemAlloc_v2(Address *address, size_t size) {
    char *start;
    CUresult result = take(size, 0, &start);
    if (result == OK) *address = (Address)start + FAR;
    return result;
}

CUresult cuMemFree_v2(Address address) { return give((char *)(address - FAR), 0); }

CUresult cuMemAllocHost_v2(void **address, size_t size) { return take(size, 1, (char **)address); }

CUresult cuMemHostAlloc(void **address, size_t size, unsigned flags) {
    return flags ? INVALID_VALUE : cuMemAllocHost_v2(address, size);
}

CUresult cuMemFreeHost(void *address) { return give(address, 1); }

CUresult cuMemGetInfo_v2(size_t *unused, size_t *total) { *unused = *total = (size_t)8 << 30; return OK; }

/* ---- modules and kernels */

typedef struct { int magic; } Module;
typedef struct { int magic; } Function;
static Function axpy = {0xf0};

CUresult cuModuleLoadData(Module **module, const void *image) {
    if (!current()) return INVALID_CONTEXT;
    if (strncmp(image, "fake cubin", 10)) return INVALID_IMAGE;
    *module = malloc(sizeof(Module));
    (*module)->magic = 0x30d;
    return OK;
}

CUresult cuModuleLoadDataEx(Module **module, const void *image, unsigned options, void *names, void *values) {
    if (options && (!names || !values)) return INVALID_VALUE;
    return cuModuleLoadData(module, image);
}

CUresult cuModuleUnload(Module *module) {
    if (module->magic != 0x30d) return INVALID_HANDLE;
    module->magic = 0;
    free(module);
    return OK;
}

CUresult cuModuleGetFunction(Function **function, Module *module, const char *name) {
    if (module->magic != 0x30d) return INVALID_HANDLE;
    if (strcmp(name, "axpy")) return NOT_FOUND;
    *function = &axpy;
    return OK;
}

CUresult cuFuncSetBlockShape(Function *function, int x, int y, int z) {
    return function == &axpy && x > 0 && y > 0 && z > 0 ? OK : INVALID_VALUE;
}

CUresult cuFuncGetAttribute(int *value, int attribute, Function *function) {
    if (function != &axpy) return INVALID_HANDLE;
    switch (attribute) {
        case 0: *value = 1024; return OK; /* threads of a block */
        case 1: *value = 128; return OK;  /* bytes of shared memory */
        case 3: *value = 16; return OK;   /* bytes of local memory */
        case 4: *value = 24; return OK;   /* registers */
        default: return INVALID_VALUE;
    }
}

/* ---- work: done at once, or kept by a stream that is capturing */

typedef struct Work Work;
struct Work {
    enum { COPY_IN, COPY_OUT, FILL, LAUNCH, MARK } kind;
    char *host; Address device; size_t size; int byte; unsigned threads; char parameters[24]; void *event;
    Work *next;
};
typedef struct { int magic; unsigned flags; int capturing, broken; Work *first, **last; } Stream;
typedef struct { int magic; unsigned flags; double at_ms; } Event;
typedef struct { int magic; Work *first; } Graph;
static double now_ms = 0;

static CUresult done(const Work *work) {
    now_ms += work->kind == MARK ? 0 : 1;
    char *there = piece(work->device, work->size);
    if (work->kind == COPY_IN || work->kind == COPY_OUT || work->kind == FILL)
        if (!there || (Address)work->host >= FAR) return INVALID_VALUE;
    switch (work->kind) {
        case COPY_IN: memcpy(there, work->host, work->size); return OK;
        case COPY_OUT: memcpy(work->host, there, work->size); return OK;
        case FILL: memset(there, work->byte, work->size); return OK;
        case MARK: ((Event *)work->event)->at_ms = now_ms; return OK;
        case LAUNCH: {
            Address x, y; int n; float a;
            memcpy(&x, work->parameters, 8);
            memcpy(&y, work->parameters + 8, 8);
            memcpy(&n, work->parameters + 16, 4);
            memcpy(&a, work->parameters + 20, 4);
            if (n < 0 || work->threads < (unsigned)n) return INVALID_VALUE;
            float *from = (float *)piece(x, 4 * (size_t)n), *to = (float *)piece(y, 4 * (size_t)n);
            if (!from || !to) return INVALID_VALUE;
            for (int i = 0; i < n; i++) to[i] += a * from[i];
            return OK;
        }
    }
    return INVALID_VALUE;
}

static CUresult put(Stream *stream, Work work) {
    if (!current()) return INVALID_CONTEXT;
    if (!stream || stream->magic != 0x57) return INVALID_HANDLE;
    if (!stream->capturing) return done(&work);
    Work *kept = malloc(sizeof work);
    *kept = work;
    kept->next = NULL;
    *stream->last = kept;
    stream->last = &kept->next;
    return OK;
}

CUresult cuMemcpyHtoDAsync_v2(Address to, const void *from, size_t size, Stream *stream) {
    return put(stream, (Work){.kind = COPY_IN, .host = (char *)from, .device = to, .size = size});
}

CUresult cuMemcpyDtoHAsync_v2(void *to, Address from, size_t size, Stream *stream) {
    return put(stream, (Work){.kind = COPY_OUT, .host = to, .device = from, .size = size});
}

CUresult cuMemsetD8Async(Address to, unsigned char byte, size_t size, Stream *stream) {
    return put(stream, (Work){.kind = FILL, .device = to, .size = size, .byte = byte});
}

CUresult cuLaunchKernel(Function *function, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz,
                        unsigned shared, Stream *stream, void **parameters, void **extra) {
    static const size_t sizes[] = {8, 8, 4, 4};
    Work work = {.kind = LAUNCH, .threads = gx * bx};
    if (function != &axpy) return INVALID_HANDLE;
    if (!gx || !bx || gy != 1 || gz != 1 || by != 1 || bz != 1) return INVALID_VALUE;
    if (bx > 1024 || shared > 48 << 10) return LAUNCH_RESOURCES;
    if (parameters) {
        size_t at = 0;
        for (int i = 0; i < 4; at += sizes[i++]) memcpy(work.parameters + at, parameters[i], sizes[i]);
    } else {
        if (!extra || extra[0] != (void *)1 || extra[2] != (void *)2 || extra[4]) return INVALID_VALUE;
        if (*(size_t *)extra[3] != 24) return INVALID_VALUE;
        memcpy(work.parameters, extra[1], 24);
    }
    return put(stream, work);
}

/* ---- streams */

CUresult cuStreamCreate(Stream **stream, unsigned flags) {
    if (!current()) return INVALID_CONTEXT;
    if (flags > 1) return INVALID_VALUE;
    *stream = calloc(1, sizeof(Stream));
    (*stream)->magic = 0x57;
    (*stream)->flags = flags;
    return OK;
}

CUresult cuStreamDestroy_v2(Stream *stream) {
    if (stream->magic != 0x57) return INVALID_HANDLE;
    stream->magic = 0;
    return OK;
}

CUresult cuStreamSynchronize(Stream *stream) {
    if (!stream || stream->magic != 0x57) return INVALID_HANDLE;
    if (!stream->capturing) return OK;
    stream->broken = 1;
    return CAPTURE_UNSUPPORTED;
}

CUresult cuStreamBeginCapture_v2(Stream *stream, int mode) {
    if (!stream || stream->magic != 0x57 || stream->capturing) return INVALID_HANDLE;
    if (mode != 1) return INVALID_VALUE; /* of this thread */
    stream->capturing = 1;
    stream->broken = 0;
    stream->first = NULL;
    stream->last = &stream->first;
    capturing++;
    return OK;
}

CUresult cuStreamEndCapture(Stream *stream, Graph **graph) {
    if (!stream || stream->magic != 0x57 || !stream->capturing) return INVALID_HANDLE;
    stream->capturing = 0;
    capturing--;
    *graph = NULL;
    if (stream->broken) return CAPTURE_INVALIDATED;
    *graph = calloc(1, sizeof(Graph));
    **graph = (Graph){0x62, stream->first};
    return OK;
}

/* ---- graphs: the executable one has the template's work */

CUresult cuGraphInstantiateWithFlags(Graph **executable, Graph *graph, unsigned long long flags) {
    if (!graph || graph->magic != 0x62 || flags) return INVALID_VALUE;
    *executable = calloc(1, sizeof(Graph));
    **executable = (Graph){0x63, graph->first};
    return OK;
}

CUresult cuGraphLaunch(Graph *executable, Stream *stream) {
    if (!executable || executable->magic != 0x63) return INVALID_HANDLE;
    for (Work *work = executable->first; work; work = work->next) {
        CUresult result = put(stream, *work);
        if (result) return result;
    }
    return OK;
}

CUresult cuGraphExecDestroy(Graph *executable) {
    if (!executable || executable->magic != 0x63) return INVALID_HANDLE;
    executable->magic = 0;
    return OK;
}

CUresult cuGraphDestroy(Graph *graph) {
    if (!graph || graph->magic != 0x62) return INVALID_HANDLE;
    graph->magic = 0;
    return OK;
}

/* ---- events */

CUresult cuEventCreate(Event **event, unsigned flags) {
    if (!current()) return INVALID_CONTEXT;
    if (flags > 3) return INVALID_VALUE;
    *event = calloc(1, sizeof(Event));
    **event = (Event){0xe7, flags, -1};
    return OK;
}

CUresult cuEventDestroy_v2(Event *event) {
    if (event->magic != 0xe7) return INVALID_HANDLE;
    event->magic = 0;
    return OK;
}

CUresult cuEventRecord(Event *event, Stream *stream) {
    if (!event || event->magic != 0xe7) return INVALID_HANDLE;
    return put(stream, (Work){.kind = MARK, .event = event});
}

CUresult cuEventSynchronize(Event *event) { return event && event->magic == 0xe7 ? OK : INVALID_HANDLE; }

CUresult cuEventElapsedTime(float *milliseconds, Event *start, Event *end) {
    if (start->magic != 0xe7 || end->magic != 0xe7 || (start->flags & 2) || (end->flags & 2)) return INVALID_HANDLE;
    if (start->at_ms < 0 || end->at_ms < 0) return INVALID_HANDLE;
    *milliseconds = (float)(end->at_ms - start->at_ms);
    return OK;
}

CUresult cuEventElapsedTime_v2(float *milliseconds, Event *start, Event *end) {
    return cuEventElapsedTime(milliseconds, start, end);
}

/* ---- what cuda-python asks for everything by: the newest of each name, as the driver's own does */

CUresult cuGetProcAddress_v2(const char *symbol, void **function, int version, uint64_t flags, int *status) {
    static const char *suffixes[] = {"_v2", "WithFlags", ""};
    void *self = dlopen("libcuda.so.1", RTLD_LAZY | RTLD_NOLOAD);
    char name[128];
    *function = NULL;
    for (int i = 0; i < 3 && self && !*function; i++) {
        if (i == 1 && strcmp(symbol, "cuGraphInstantiate")) continue;
        snprintf(name, sizeof name, "%s%s", symbol, suffixes[i]);
        *function = dlsym(self, name);
    }
    if (status) *status = *function ? 0 : 1;
    return *function ? OK : NOT_FOUND;
}
