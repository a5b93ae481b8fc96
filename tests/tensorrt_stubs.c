/* What the Python bindings of TensorRT 11 want to be linked with, on a machine that has no TensorRT: nothing works, and
   the module imports, with its classes, enumerations and signatures. */
#include <stdint.h>

void *createInferBuilder_INTERNAL(void *logger, int32_t version) { return 0; }
void *createInferRefitter_INTERNAL(void *engine, void *logger, int32_t version) { return 0; }
void *createInferRuntime_INTERNAL(void *logger, int32_t version) { return 0; }
void *createNvOnnxParser_INTERNAL(void *network, void *logger, int version) { return 0; }
void *createNvOnnxParserRefitter_INTERNAL(void *refitter, void *logger, int32_t version) { return 0; }
int getNvOnnxParserVersion(void) { return 0; }
void *getPluginRegistry(void) { return 0; }
void *getBuilderPluginRegistry(int32_t capability) { return 0; }
_Bool initLibNvInferPlugins(void *logger, const char *names) { return 1; }
