/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The UEFI program against a firmware of our own making: an obedient one, and all that a volume, a
 * boot entry or a memory map can do to it. Memory that it allocates is real, so that the address
 * sanitizer sees the conf and the options; the image, a few bytes, is moved to where it can be
 * looked at.
 */
#include "support.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define __image_start fake_image
#define __bss_start   fake_bss
#define __image_end   fake_image_end
#include "boot/uefi.c"

#define IMAGE_BYTES 5000
#define IMAGE_ALL   9000
const uint8_t fake_image[IMAGE_ALL] = {1, 2, 3, [IMAGE_BYTES - 1] = 9};
__asm__(".globl fake_bss, fake_image_end, uefi_move, uefi_move_end\n"
        ".set fake_bss, fake_image + 5000\n"
        ".set fake_image_end, fake_image + 9000\n"
        ".pushsection .data\n"
        "uefi_move: movabs $fake_moved, %rax; jmp *%rax\n"
        "uefi_move_end:\n"
        ".popsection");

#define MIB    0x100000ull
#define TARGET MIB
const struct uefi_target uefi_target = {TARGET, TARGET + 3 * 4096, 1ull << 30};

#define MAP_ENTRIES 64
struct map_entry {
    struct efi_memory_descriptor d;
    uint64_t more; /* descriptors may grow */
};

static struct {
    const uint8_t *conf; /* NULL: there is none */
    size_t conf_len, conf_at, piece;
    efi_status open_status, read_status;
    bool no_volume;
    struct map_entry map[MAP_ENTRIES];
    unsigned map_count, exits, exits_failing, resets, allocated, freed;
    uint64_t descriptor_size, map_size; /* 0: the true ones */
    bool target_taken, no_memory, at_target;
    uint16_t opened[PATH_MAX];
    char said[1024];
    size_t said_len;
    jmp_buf back;
    struct uefi_handoff *h;
    uint64_t h_bytes;
} fw;
enum { RETURNED = 0, MOVED = 1, RESET = 2 };

/* ---- The firmware ---------------------------------------------------------------------------- */

static efi_status EFIAPI output_string(struct efi_simple_text_output *o, const uint16_t *s)
{
    (void)o;
    assert_int_equal(fw.exits, 0);
    while (*s && fw.said_len < sizeof(fw.said) - 1)
        fw.said[fw.said_len++] = (char)*s++;
    return 0;
}

static efi_status EFIAPI allocate_pages(unsigned how, unsigned type, uint64_t pages, uint64_t *at)
{
    (void)type;
    if (how == EFI_ALLOCATE_ADDRESS) {
        assert_int_equal(*at, TARGET);
        fw.allocated += !fw.target_taken;
        return fw.target_taken ? EFI_NOT_FOUND : 0;
    }
    assert_int_equal(how, EFI_ALLOCATE_MAX_ADDRESS);
    assert_int_equal(*at, uefi_target.reach - 1);
    if (fw.no_memory)
        return EFI_ERROR(9);
    fw.allocated++;
    if (fw.at_target) {
        *at = TARGET + 4096;
        return 0;
    }
    fw.h_bytes = pages * 4096;
    fw.h = mmap(NULL, fw.h_bytes, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS,
                -1, 0);
    assert_true(fw.h != MAP_FAILED);
    *at = (uintptr_t)fw.h;
    return 0;
}

static efi_status EFIAPI free_pages(uint64_t at, uint64_t pages)
{
    assert_true(at == TARGET ? pages == 3 : at == TARGET + 4096 || pages * 4096 == fw.h_bytes);
    fw.freed++;
    return 0;
}

static efi_status EFIAPI get_memory_map(uint64_t *size, void *map, uint64_t *key,
                                        uint64_t *descriptor_size, uint32_t *version)
{
    uint64_t n = fw.map_count * sizeof(fw.map[0]);
    if (fw.map_size > *size)
        return EFI_ERROR(5);
    memcpy(map, fw.map, n);
    *size = fw.map_size ? fw.map_size : n;
    *descriptor_size = fw.descriptor_size ? fw.descriptor_size : sizeof(fw.map[0]);
    *version = 1;
    *key = 77 + fw.exits;
    return 0;
}

static efi_status EFIAPI exit_boot_services(efi_handle self, uint64_t key)
{
    assert_int_equal((uintptr_t)self, 5);
    assert_int_equal(key, 77 + fw.exits);
    return fw.exits++ < fw.exits_failing ? EFI_INVALID_PARAMETER : 0;
}

static void EFIAPI reset_system(unsigned how, efi_status s, uint64_t size, const void *data)
{
    (void)how, (void)s, (void)size, (void)data;
    longjmp(fw.back, RESET);
}

static efi_status EFIAPI file_read(struct efi_file *f, uint64_t *size, void *buffer)
{
    (void)f;
    uint64_t n = MIN(*size, fw.conf_len - fw.conf_at);
    if (fw.piece)
        n = MIN(n, fw.piece);
    memcpy(buffer, fw.conf + fw.conf_at, n);
    fw.conf_at += n;
    *size = n;
    return fw.read_status;
}

static efi_status EFIAPI file_close(struct efi_file *f)
{
    (void)f;
    return 0;
}
static struct efi_file file = {.close = file_close, .read = file_read};

static efi_status EFIAPI file_open(struct efi_file *root, struct efi_file **f, const uint16_t *name,
                                   uint64_t mode, uint64_t attributes)
{
    (void)root;
    assert_true(mode == EFI_FILE_MODE_READ && !attributes);
    for (unsigned i = 0; i < PATH_MAX && (!i || name[i - 1]); i++)
        fw.opened[i] = name[i];
    *f = &file;
    return fw.open_status ? fw.open_status : fw.conf ? 0 : EFI_NOT_FOUND;
}
static struct efi_file root = {.open = file_open, .close = file_close};

static efi_status EFIAPI open_volume(struct efi_simple_file_system *fs, struct efi_file **f)
{
    (void)fs;
    *f = &root;
    return 0;
}
static struct efi_simple_file_system volume = {.open_volume = open_volume};

static struct efi_loaded_image loaded;

static efi_status EFIAPI handle_protocol(efi_handle handle, const struct efi_guid *guid, void **out)
{
    static const struct efi_guid image = EFI_LOADED_IMAGE_PROTOCOL_GUID;
    if (!memcmp(guid, &image, sizeof(image))) {
        assert_int_equal((uintptr_t)handle, 5);
        *out = &loaded;
        return 0;
    }
    assert_int_equal((uintptr_t)handle, 6);
    *out = &volume;
    return fw.no_volume ? EFI_NOT_FOUND : 0;
}

static struct efi_boot_services boot = {.allocate_pages = allocate_pages,
                                        .free_pages = free_pages,
                                        .get_memory_map = get_memory_map,
                                        .handle_protocol = handle_protocol,
                                        .exit_boot_services = exit_boot_services};
static struct efi_runtime_services runtime = {.reset_system = reset_system};
static struct efi_simple_text_output con_out = {.output_string = output_string};
static struct efi_configuration_table tables[] = {
    {EFI_DTB_TABLE_GUID, (void *)0x1000},
    {EFI_ACPI_20_TABLE_GUID, (void *)0x2000},
};
static struct efi_system_table st = {
    .con_out = &con_out, .runtime = &runtime, .boot = &boot, .table_count = 2, .tables = tables};

void fake_moved(struct uefi_handoff *h, const void *image, uint64_t bytes);
void fake_moved(struct uefi_handoff *h, const void *image, uint64_t bytes)
{
    assert_ptr_equal(h, fw.h);
    assert_ptr_equal(image, h->image);
    assert_int_equal(bytes, IMAGE_BYTES);
    assert_memory_equal(image, fake_image, IMAGE_BYTES);
    longjmp(fw.back, MOVED);
}

/* ---- Helpers --------------------------------------------------------------------------------- */

static void add_map(unsigned type, uint64_t start, uint64_t pages)
{
    assert_true(fw.map_count < MAP_ENTRIES);
    fw.map[fw.map_count++].d = (struct efi_memory_descriptor){
        .type = type, .physical_start = start, .number_of_pages = pages};
}

static const uint8_t program[] = {4,  4, 14,   0, '\\', 0, 'E', 0, 'F', 0, 'I', 0, 0,    0,   4, 4,
                                  14, 0, '\\', 0, 'x',  0, '.', 0, 'y', 0, 0,   0, 0x7f, 255, 4, 0};

static int reset_fw(void **state)
{
    (void)state;
    memset(&fw, 0, sizeof(fw));
    loaded = (struct efi_loaded_image){.device = (efi_handle)6, .file_path = program};
    st.table_count = 2;
    add_map(EFI_CONVENTIONAL_MEMORY, 0, 160);
    add_map(EFI_LOADER_DATA, TARGET, 3);
    add_map(EFI_BOOT_SERVICES_DATA, TARGET + 3 * 4096, 5);
    add_map(0, 0x80000000, 16);
    add_map(EFI_BOOT_SERVICES_CODE, 2 * MIB, 256);
    add_map(9, 3 * MIB, 256);
    add_map(EFI_LOADER_CODE, 4 * MIB, 256);
    return 0;
}

static void set_conf(const char *text)
{
    fw.conf = (const uint8_t *)text;
    fw.conf_len = strlen(text);
}

static int start(void)
{
    int how = setjmp(fw.back);
    if (!how)
        assert_int_equal(uefi_main((efi_handle)5, &st), EFI_LOAD_ERROR);
    return how;
}

static void expect_words(const char *words)
{
    assert_int_equal(start(), MOVED);
    assert_string_equal(fw.h->words, words);
    munmap(fw.h, fw.h_bytes);
}

/* It says why, gives back what it took, and has left the boot services alone. */
static void expect_refusal(const char *why)
{
    assert_int_equal(start(), RETURNED);
    if (!strstr(fw.said, why) || strncmp(fw.said, "strongroom: ", 12) != 0)
        fail_msg("%s: instead of: %s", fw.said, why);
    assert_int_equal(fw.exits, 0);
    assert_int_equal(fw.allocated, fw.freed);
    if (fw.h)
        munmap(fw.h, fw.h_bytes);
}

/* ---- Tests ----------------------------------------------------------------------------------- */

static void test_records(void **state)
{
    (void)state;
    set_conf("--a b");
    assert_int_equal(start(), MOVED);
    const struct hvm_start_info *s = &fw.h->start;
    assert_int_equal(s->magic, HVM_START_MAGIC);
    assert_int_equal(s->version, 1);
    assert_int_equal(s->rsdp_paddr, 0x2000);
    assert_int_equal(fw.h->fdt, 0x1000);
    assert_int_equal(s->cmdline_paddr, (uintptr_t)fw.h->words);
    assert_int_equal(s->memmap_paddr, (uintptr_t)fw.h->memmap);
    static const struct hvm_memmap_entry want[] = {
        {0, 160 * 4096, HVM_MEMMAP_RAM, 0}, /* neighbours are one; what is kept is not there */
        {MIB, 8 * 4096, HVM_MEMMAP_RAM, 0},
        {2 * MIB, MIB, HVM_MEMMAP_RAM, 0},
        {4 * MIB, MIB, HVM_MEMMAP_RAM, 0},
    };
    assert_int_equal(s->memmap_entries, ARRAY_LEN(want));
    assert_memory_equal(fw.h->memmap, want, sizeof(want));
    assert_int_equal(fw.said_len, 0);
    munmap(fw.h, fw.h_bytes);
}

static void test_conf(void **state)
{
    (void)state;
    static const char *const cases[][2] = {
        {"", " "},
        {"--a b=c", "--a b=c "},
        {"--a b\r\n--c\n\n d", "--a b  --c   d "},
        {"# --x\n--a\n \t# --y\n--b # c", " --a    --b # c "},
        {"#", " "},
        {"--a \xc3\xa4", "--a \xc3\xa4 "},
    };
    for (unsigned i = 0; i < ARRAY_LEN(cases); i++) {
        for (fw.piece = 0; fw.piece < 3; fw.piece++) {
            fw.conf_at = 0;
            fw.exits = 0;
            set_conf(cases[i][0]);
            expect_words(cases[i][1]);
        }
    }
}

static void test_conf_that_is_not_there(void **state)
{
    expect_words("");
    reset_fw(state);
    fw.no_volume = true;
    expect_words("");
    reset_fw(state);
    loaded.device = NULL;
    expect_words("");
}

static void test_bad_conf(void **state)
{
    set_conf("--a\1");
    expect_refusal("strongroom.conf is not a text");
    reset_fw(state);
    set_conf("--a");
    fw.conf_len = 4; /* the terminator */
    expect_refusal("strongroom.conf is not a text");
    reset_fw(state);
    set_conf("--a");
    fw.read_status = EFI_ERROR(7);
    expect_refusal("strongroom.conf cannot be read");
    reset_fw(state);
    fw.open_status = EFI_ERROR(15);
    expect_refusal("strongroom.conf cannot be opened");
}

static void test_long_conf(void **state)
{
    char *text = malloc(UEFI_SCRATCH + 1);
    memset(text, 'x', UEFI_SCRATCH + 1);
    fw.conf = (const uint8_t *)text;
    fw.conf_len = UEFI_WORDS_MAX - 1; /* the blank at the end has no room */
    expect_refusal("more than 4095 bytes of options");
    reset_fw(state);
    fw.conf = (const uint8_t *)text;
    fw.conf_len = UEFI_WORDS_MAX - 2;
    loaded.load_options = "-\0";
    loaded.load_options_size = 4;
    expect_refusal("the options are longer than 4095 bytes");
    reset_fw(state);
    text[0] = '#';
    fw.conf = (const uint8_t *)text;
    fw.conf_len = UEFI_SCRATCH - 1;
    expect_words(" ");
    reset_fw(state);
    fw.conf = (const uint8_t *)text;
    fw.conf_len = UEFI_SCRATCH + 1;
    expect_refusal("strongroom.conf is longer than 48 KiB");
    free(text);
}

static void expect_path(const void *nodes, size_t size, const char *path)
{
    void *copy = malloc(size);
    memcpy(copy, nodes, size);
    reset_fw(NULL);
    loaded.file_path = copy;
    expect_words("");
    for (size_t i = 0; i <= strlen(path); i++)
        assert_int_equal(fw.opened[i], (uint8_t)path[i]);
    free(copy);
}

static void test_path(void **state)
{
    (void)state;
    static const uint8_t none[] = {0x7f, 255, 4, 0}, loop[] = {4, 4, 0, 0},
                         odd[] = {4, 4, 5, 0, 7, 0x7f, 255, 4, 0};
    expect_path(program, sizeof(program), "\\EFI\\strongroom.conf");
    expect_path(none, sizeof(none), "\\strongroom.conf");
    expect_path(loop, sizeof(loop), "\\strongroom.conf");
    expect_path(odd, sizeof(odd), "\\strongroom.conf");
    reset_fw(NULL);
    loaded.file_path = NULL;
    expect_words("");
}

static void test_long_path(void **state)
{
    (void)state;
    uint8_t nodes[4 + 2 * PATH_MAX + 4] = {4, 4, (4 + 2 * PATH_MAX) & 255, (4 + 2 * PATH_MAX) >> 8};
    for (unsigned i = 0; i < PATH_MAX; i++)
        nodes[4 + 2 * i] = '\\';
    nodes[4 + 2 * PATH_MAX] = 0x7f;
    nodes[4 + 2 * PATH_MAX + 2] = 4;
    loaded.file_path = nodes;
    set_conf("--a");
    expect_refusal("the path of strongroom.conf is too long");
}

static void test_load_options(void **state)
{
    static const uint8_t text[] = {'-', 0, 'a', 0, 0, 0, 'b', 0}, binary[] = {'-', 0, 3, 200, 1};
    set_conf("--c");
    loaded.load_options = text;
    loaded.load_options_size = sizeof(text);
    expect_words("--c -a");
    reset_fw(state);
    loaded.load_options = text;
    loaded.load_options_size = 3; /* no terminator, half a letter */
    expect_words("-");
    reset_fw(state);
    set_conf("--c");
    loaded.load_options = binary;
    loaded.load_options_size = sizeof(binary);
    expect_words("--c ");
    assert_non_null(strstr(fw.said, "the load options are not text: left out"));
    reset_fw(state);
    loaded.load_options_size = 100;
    expect_words("");
}

static void test_tables(void **state)
{
    (void)state;
    st.table_count = 0;
    assert_int_equal(start(), MOVED);
    assert_int_equal(fw.h->start.rsdp_paddr, 0);
    assert_non_null(strstr(fw.said, "neither ACPI nor a device tree"));
    munmap(fw.h, fw.h_bytes);
}

static void test_target(void **state)
{
    fw.target_taken = true; /* by what ends with boot services */
    fw.map[1].d.type = EFI_BOOT_SERVICES_DATA;
    expect_words("");
    reset_fw(state);
    fw.target_taken = true;
    fw.map[1].d.type = 6;
    expect_refusal("the firmware keeps the memory that the image is linked for");
    reset_fw(state);
    fw.map[1].d.number_of_pages = 2;
    fw.map[2].d.type = 5;
    expect_refusal("the firmware keeps the memory that the image is linked for");
    reset_fw(state);
    fw.no_memory = true;
    expect_refusal("no memory to start from");
    reset_fw(state);
    fw.at_target = true;
    expect_refusal("no memory to start from but where");
}

static void test_absurd_maps(void **state)
{
    static const struct {
        uint64_t size, descriptor;
    } cases[] = {{0, 39}, {0, 1ull << 63}, {0, UEFI_SCRATCH + 8}, {UEFI_SCRATCH + 1, 48}, {20, 48}};
    for (unsigned i = 0; i < ARRAY_LEN(cases); i++) {
        reset_fw(state);
        fw.map_size = cases[i].size;
        fw.descriptor_size = cases[i].descriptor;
        expect_refusal("no memory map from the firmware");
    }
    reset_fw(state);
    add_map(EFI_CONVENTIONAL_MEMORY, 5 * MIB + 1, 1); /* each of these is not there */
    add_map(EFI_CONVENTIONAL_MEMORY, 5 * MIB, UINT64_MAX / 4096);
    add_map(EFI_CONVENTIONAL_MEMORY, UINT64_MAX - 4095, 1);
    add_map(EFI_CONVENTIONAL_MEMORY, 5 * MIB, 0);
    assert_int_equal(start(), MOVED);
    assert_int_equal(fw.h->start.memmap_entries, 4);
    munmap(fw.h, fw.h_bytes);
    reset_fw(state);
    add_map(5, 4 * MIB + 4096, 1);
    expect_refusal("memory map contradicts itself");
    reset_fw(state);
    add_map(EFI_CONVENTIONAL_MEMORY, 4 * MIB - 4096, 2);
    expect_refusal("memory map contradicts itself");
}

static void test_exit(void **state)
{
    fw.exits_failing = 1;
    expect_words("");
    assert_int_equal(fw.exits, 2);
    reset_fw(state);
    fw.exits_failing = 2;
    assert_int_equal(start(), RESET);
    assert_int_equal(fw.exits, 2);
    munmap(fw.h, fw.h_bytes);
}

#define TEST(f) cmocka_unit_test_setup(f, reset_fw)
int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_records),   TEST(test_conf),         TEST(test_conf_that_is_not_there),
        TEST(test_bad_conf),  TEST(test_long_conf),    TEST(test_path),
        TEST(test_long_path), TEST(test_load_options), TEST(test_tables),
        TEST(test_target),    TEST(test_absurd_maps),  TEST(test_exit),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
