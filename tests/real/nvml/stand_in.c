/* SIMULATED: a stand-in for NVIDIA's library libnvidia-ml.so.1, so that the real nvidia-smi prints its own words without
 * a card and without a driver. The environment says what the library knows:
 *
 *   NVML_CARDS       number of cards (2)
 *   NVML_INIT        error of the start, an nvmlReturn_t
 *   NVML_LOST        index of a card without a handle: error 15, "GPU is lost"
 *   NVML_UNKNOWN     index of a card without a handle: error 999, "Unknown Error"
 *   NVML_RESET, NVML_GONE, NVML_ODD   index of a card whose memory is error 16, 15 or 999
 *   NVML_MIG         MIG mode, 0 or 1; not supported without the variable
 *   NVML_MIG_NEXT    MIG mode after a reset, 0 or 1; as NVML_MIG without the variable
 *   NVML_DEVICES     number of MIG devices of each card (0)
 *   NVML_ECC         ECC mode, 0 or 1; not supported without the variable
 *   NVML_ECC_ERRORS  uncorrected ECC errors since the driver was loaded (0)
 *   NVML_POWER       limit of the power in milliwatts; not supported without the variable
 *   NVML_PERSISTENCE persistence mode, 0 or 1; not supported without the variable
 *   NVML_NAME        name of the cards
 *
 * Names and numbers of functions, structures and errors are those of NVIDIA's nvml.h. nvidia-smi also calls functions by
 * number from a table; none of these works here, so nvidia-smi lists no processes with this library. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { OK = 0, INVALID = 2, NOT_SUPPORTED = 3, NOT_FOUND = 6, LOST = 15, RESET = 16, UNKNOWN = 999, MOST = 16 };
typedef struct { unsigned long long total, free, used; } memory;
typedef struct { unsigned version; unsigned long long total, reserved, free, used; } memory_v2;
typedef struct { char legacy[16]; unsigned domain, bus, device, id, subsystem; char bus_id[32]; } pci_info;
typedef struct { unsigned version, domain, bus, device, id, subsystem, class, subclass; char bus_id[32]; } pci_info_ext;

static int cards[MOST];
static int devices[MOST][MOST]; /* the MIG devices of each card */

static int number(const char *name, int otherwise) {
    const char *text = getenv(name);
    return text ? atoi(text) : otherwise;
}
static int is(const char *name, int index) { return number(name, -1) == index; }
static int index_of(void *card) { return (int)((int *)card - cards); }

int nvmlInit_v2(void) { return number("NVML_INIT", OK); }
int nvmlInitWithFlags(unsigned flags) { (void)flags; return nvmlInit_v2(); }
int nvmlShutdown(void) { return OK; }

const char *nvmlErrorString(int error) {
    switch (error) {
    case 4: return "Insufficient Permissions";
    case 9: return "Driver Not Loaded";
    case LOST: return "GPU is lost";
    case RESET: return "GPU requires reset";
    case 17: return "GPU access blocked by the operating system";
    case 18: return "Driver/library version mismatch";
    default: return "Unknown Error";
    }
}

int nvmlSystemGetDriverVersion(char *text, unsigned length) { snprintf(text, length, "550.163.01"); return OK; }
int nvmlSystemGetNVMLVersion(char *text, unsigned length) { snprintf(text, length, "12.550.163.01"); return OK; }
int nvmlSystemGetCudaDriverVersion_v2(int *version) { *version = 12040; return OK; }
int nvmlDeviceGetCount_v2(unsigned *count) { *count = (unsigned)number("NVML_CARDS", 2); return OK; }

int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **card) {
    if ((int)index >= number("NVML_CARDS", 2) || index >= MOST) return INVALID;
    if (is("NVML_LOST", (int)index)) return LOST;
    if (is("NVML_UNKNOWN", (int)index)) return UNKNOWN;
    *card = &cards[index];
    return OK;
}

/* The place of a MIG device among all, or -1 for a card. */
static int place_of(void *card) {
    int *place = card, *first = &devices[0][0];
    return place >= first && place < first + MOST * MOST ? (int)(place - first) : -1;
}

int nvmlDeviceGetIndex(void *card, unsigned *index) { *index = (unsigned)index_of(card); return OK; }
int nvmlDeviceGetUUID(void *card, char *text, unsigned length) {
    int place = place_of(card);
    if (place >= 0)
        snprintf(text, length, "MIG-0000%02d%02d-5555-6666-7777-888888888888", place / MOST, place % MOST);
    else snprintf(text, length, "GPU-0000000%d-1111-2222-3333-444444444444", index_of(card));
    return OK;
}
int nvmlDeviceGetName(void *card, char *text, unsigned length) {
    const char *name = getenv("NVML_NAME");
    snprintf(text, length, "%s%s", name ? name : "NVIDIA L40S", place_of(card) < 0 ? "" : " MIG 3g.40gb");
    return OK;
}
int nvmlDeviceGetCudaComputeCapability(void *card, int *major, int *minor) {
    (void)card;
    *major = 8, *minor = 9;
    return OK;
}

static int trouble(void *card) {
    int index = index_of(card);
    return is("NVML_RESET", index) ? RESET : is("NVML_GONE", index) ? LOST : is("NVML_ODD", index) ? UNKNOWN : OK;
}
int nvmlDeviceGetMemoryInfo(void *card, memory *m) {
    m->total = 46068ull << 20, m->used = 1ull << 20, m->free = 45000ull << 20;
    return trouble(card);
}
int nvmlDeviceGetMemoryInfo_v2(void *card, memory_v2 *m) {
    m->total = 46068ull << 20, m->used = 1ull << 20, m->free = 45000ull << 20, m->reserved = 1067ull << 20;
    return trouble(card);
}
int nvmlDeviceGetMigMode(void *card, unsigned *now, unsigned *pending) {
    (void)card;
    *now = (unsigned)number("NVML_MIG", 0);
    *pending = (unsigned)number("NVML_MIG_NEXT", (int)*now);
    return getenv("NVML_MIG") ? OK : NOT_SUPPORTED;
}
int nvmlDeviceIsMigDeviceHandle(void *card, unsigned *is_device) { *is_device = place_of(card) >= 0; return OK; }
int nvmlDeviceGetMaxMigDeviceCount(void *card, unsigned *count) { (void)card; *count = 7; return OK; }
int nvmlDeviceGetMigDeviceHandleByIndex(void *card, unsigned index, void **device) {
    if ((int)index >= number("NVML_DEVICES", 0) || index >= MOST) return NOT_FOUND;
    *device = &devices[index_of(card)][index];
    return OK;
}
int nvmlDeviceGetDeviceHandleFromMigDeviceHandle(void *device, void **card) {
    *card = &cards[place_of(device) / MOST];
    return OK;
}
int nvmlDeviceGetEccMode(void *card, unsigned *now, unsigned *pending) {
    (void)card;
    *now = *pending = (unsigned)number("NVML_ECC", 0);
    return getenv("NVML_ECC") ? OK : NOT_SUPPORTED;
}
int nvmlDeviceGetTotalEccErrors(void *card, int type, int counter, unsigned long long *count) {
    (void)card, (void)type, (void)counter;
    *count = (unsigned long long)number("NVML_ECC_ERRORS", 0);
    return getenv("NVML_ECC") ? OK : NOT_SUPPORTED;
}
int nvmlDeviceGetPowerManagementMode(void *card, unsigned *mode) { (void)card; *mode = 1; return OK; }
int nvmlDeviceGetPowerManagementLimit(void *card, unsigned *limit) {
    (void)card;
    *limit = (unsigned)number("NVML_POWER", 0);
    return getenv("NVML_POWER") ? OK : NOT_SUPPORTED;
}
int nvmlDeviceGetEnforcedPowerLimit(void *card, unsigned *limit) { return nvmlDeviceGetPowerManagementLimit(card, limit); }
int nvmlDeviceGetComputeMode(void *card, unsigned *mode) { (void)card; *mode = 0; return OK; }
int nvmlDeviceGetPersistenceMode(void *card, unsigned *mode) {
    (void)card;
    *mode = (unsigned)number("NVML_PERSISTENCE", 0);
    return getenv("NVML_PERSISTENCE") ? OK : NOT_SUPPORTED;
}
int nvmlDeviceGetPciInfo_v3(void *card, pci_info *pci) {
    unsigned bus = (unsigned)index_of(card) + 1;
    memset(pci, 0, sizeof *pci);
    snprintf(pci->legacy, sizeof pci->legacy, "0000:%02X:00.0", bus);
    snprintf(pci->bus_id, sizeof pci->bus_id, "00000000:%02X:00.0", bus);
    pci->bus = bus;
    return OK;
}
int nvmlDeviceGetPciInfoExt(void *card, pci_info_ext *pci) {
    unsigned version = pci->version;
    memset(pci, 0, sizeof *pci);
    pci->version = version, pci->bus = (unsigned)index_of(card) + 1;
    snprintf(pci->bus_id, sizeof pci->bus_id, "00000000:%02X:00.0", pci->bus);
    return OK;
}

/* The table of functions that nvidia-smi calls by number: its first word is its size in bytes. */
static long unsupported(void) { return NOT_SUPPORTED; }
int nvmlInternalGetExportTable(void **table, const void *id) {
    static void *entries[128];
    (void)id;
    entries[0] = (void *)sizeof entries;
    for (int i = 1; i < 128; i++) entries[i] = (void *)unsupported;
    *table = entries;
    return OK;
}
