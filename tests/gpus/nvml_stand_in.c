/* A stand-in for NVIDIA's libnvidia-ml.so.1: the part of NVML's interface that is asked here.
 *
 * Names, structures, version tags and error codes are those of nvml.h; NVIDIA's own Python binding reads the same
 * from it (tests/unit/test_agent_gpus.py). What it answers is set by the environment:
 *
 * STAND_IN_GPUS   how many GPUs there are; 8 unless given
 * STAND_IN_BUSY   their utilization in percent, as 98,0,50: the rest repeats
 * STAND_IN_GPM    0: no GPM, as before Hopper
 * STAND_IN_OLD    1: a driver that knows neither nvmlMemory_v2_t nor the counter of energy
 * STAND_IN_LOST   the GPU of this number answers NVML_ERROR_GPU_IS_LOST, from the second question on
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { SUCCESS = 0, UNINITIALIZED = 1, INVALID_ARGUMENT = 2, NOT_SUPPORTED = 3, INSUFFICIENT_SIZE = 7, FUNCTION_NOT_FOUND = 13, GPU_IS_LOST = 15, ARGUMENT_VERSION_MISMATCH = 25 };

typedef struct { int index, asked; } Device;
typedef struct { double at; } GpmSample;
typedef struct { unsigned version; unsigned long long total, reserved, free, used; } MemoryV2;
typedef struct { unsigned long long total, free, used; } Memory;
typedef struct { unsigned gpu, memory; } Utilization;
typedef struct { unsigned pid; unsigned long long used; unsigned gpu_instance, compute_instance; } Process;
typedef struct { unsigned version, is_supported; } GpmSupport;
typedef struct { unsigned id; int result; double value; struct { char *short_name, *long_name, *unit; } info; } GpmMetric;
typedef struct { unsigned version, count; GpmSample *first, *second; GpmMetric metrics[]; } GpmMetrics;

static Device devices[64];
static int is_begun;

static int setting(const char *name, int otherwise) {
  const char *given = getenv(name);
  return given && *given ? atoi(given) : otherwise;
}

static int busy(int index) {
  const char *given = getenv("STAND_IN_BUSY");
  if (!given || !*given) return 90;
  int values[64], count = 0;
  char copy[512];
  snprintf(copy, sizeof copy, "%s", given);
  for (char *word = strtok(copy, ","); word && count < 64; word = strtok(NULL, ",")) values[count++] = atoi(word);
  return values[index % count];
}

static double now(void) {
  struct timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return time.tv_sec + time.tv_nsec / 1e9;
}

static unsigned milliwatts(int index) { return 70000 + 6000 * busy(index); }

static int look(Device *device) {
  if (!is_begun) return UNINITIALIZED;
  if (device < devices || device >= devices + setting("STAND_IN_GPUS", 8)) return INVALID_ARGUMENT;
  return device->index == setting("STAND_IN_LOST", -1) && device->asked++ ? GPU_IS_LOST : SUCCESS;
}

#define LOOK(device) do { int told = look(device); if (told) return told; } while (0)

int nvmlInitWithFlags(unsigned flags) { is_begun = !flags; return is_begun ? SUCCESS : INVALID_ARGUMENT; }
int nvmlShutdown(void) { is_begun = 0; return SUCCESS; }

const char *nvmlErrorString(int code) {
  switch (code) {
    case SUCCESS: return "Success";
    case NOT_SUPPORTED: return "Not Supported";
    case FUNCTION_NOT_FOUND: return "Function Not Found";
    case GPU_IS_LOST: return "GPU is lost";
    default: return "Unknown Error";
  }
}

int nvmlDeviceGetCount_v2(unsigned *count) {
  if (!is_begun) return UNINITIALIZED;
  *count = setting("STAND_IN_GPUS", 8);
  return SUCCESS;
}

int nvmlDeviceGetHandleByIndex_v2(unsigned index, Device **device) {
  if (!is_begun) return UNINITIALIZED;
  if ((int)index >= setting("STAND_IN_GPUS", 8)) return INVALID_ARGUMENT;
  devices[index].index = index;
  *device = &devices[index];
  return SUCCESS;
}

int nvmlDeviceGetUUID(Device *device, char *text, unsigned length) {
  snprintf(text, length, "GPU-00000000-0000-0000-0000-%012d", device->index);
  return SUCCESS;
}

int nvmlDeviceGetName(Device *device, char *text, unsigned length) {
  (void)device;
  snprintf(text, length, "NVIDIA Stand-In 80GB");
  return SUCCESS;
}

int nvmlDeviceGetUtilizationRates(Device *device, Utilization *found) {
  LOOK(device);
  found->gpu = busy(device->index);
  found->memory = busy(device->index) / 2;
  return SUCCESS;
}

static unsigned long long used_bytes(int index) { return (1ULL << 30) * (2 + index) ; }

int nvmlDeviceGetMemoryInfo_v2(Device *device, MemoryV2 *found) {
  LOOK(device);
  if (setting("STAND_IN_OLD", 0)) return FUNCTION_NOT_FOUND;
  if (found->version != (sizeof *found | 2u << 24)) return ARGUMENT_VERSION_MISMATCH;
  found->total = 80ULL << 30;
  found->reserved = 1ULL << 29;
  found->used = used_bytes(device->index);
  found->free = found->total - found->reserved - found->used;
  return SUCCESS;
}

int nvmlDeviceGetMemoryInfo(Device *device, Memory *found) {
  LOOK(device);
  found->total = 80ULL << 30;
  found->used = used_bytes(device->index) + (1ULL << 29);
  found->free = found->total - found->used;
  return SUCCESS;
}

int nvmlDeviceGetTemperature(Device *device, int sensor, unsigned *degrees) {
  LOOK(device);
  if (sensor) return INVALID_ARGUMENT;
  *degrees = 30 + device->index;
  return SUCCESS;
}

int nvmlDeviceGetPowerUsage(Device *device, unsigned *found) {
  LOOK(device);
  *found = milliwatts(device->index) + 1000; /* another than the counter tells: so it is seen which was read */
  return SUCCESS;
}

int nvmlDeviceGetTotalEnergyConsumption(Device *device, unsigned long long *millijoules) {
  LOOK(device);
  if (setting("STAND_IN_OLD", 0)) return NOT_SUPPORTED;
  *millijoules = (unsigned long long)(milliwatts(device->index) * now());
  return SUCCESS;
}

int nvmlDeviceGetComputeRunningProcesses_v3(Device *device, unsigned *count, Process *found) {
  LOOK(device);
  unsigned there = busy(device->index) ? 1 + device->index % 2 : 0, room = *count;
  *count = there;
  if (room < there || (there && !found)) return INSUFFICIENT_SIZE;
  for (unsigned k = 0; k < there; k++) found[k] = (Process){1000 + k, 1ULL << 30, ~0u, ~0u};
  return SUCCESS;
}

int nvmlGpmQueryDeviceSupport(Device *device, GpmSupport *found) {
  LOOK(device);
  if (found->version != 1) return ARGUMENT_VERSION_MISMATCH;
  found->is_supported = setting("STAND_IN_GPM", 1);
  return SUCCESS;
}

int nvmlGpmSampleAlloc(GpmSample **sample) {
  *sample = calloc(1, sizeof **sample);
  return SUCCESS;
}

int nvmlGpmSampleFree(GpmSample *sample) {
  free(sample);
  return SUCCESS;
}

int nvmlGpmSampleGet(Device *device, GpmSample *sample) {
  LOOK(device);
  if (!setting("STAND_IN_GPM", 1)) return NOT_SUPPORTED;
  sample->at = now() + 1e9 * (device->index + 1); /* and whose it is */
  return SUCCESS;
}

int nvmlGpmMetricsGet(GpmMetrics *asked) {
  if (asked->version != 1) return ARGUMENT_VERSION_MISMATCH;
  if (!asked->first || !asked->second || asked->first->at >= asked->second->at) return INVALID_ARGUMENT;
  int index = (int)(asked->second->at / 1e9) - 1;
  for (unsigned k = 0; k < asked->count; k++) {
    GpmMetric *metric = &asked->metrics[k];
    metric->result = SUCCESS;
    switch (metric->id) {
      case 2: metric->value = busy(index) * 0.8; break;
      case 3: metric->value = busy(index) * 0.5; break;
      case 5: metric->value = busy(index) * 0.4; break;
      case 10: metric->value = busy(index) * 0.6; break;
      default: metric->result = NOT_SUPPORTED;
    }
  }
  return SUCCESS;
}
