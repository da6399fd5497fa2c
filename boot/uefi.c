/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The image as a UEFI program: a boot loader that carries its own kernel.
 *
 * The file is the linked image, byte for byte, with a PE header in its first page (pe.inc). The
 * firmware loads it anywhere and calls uefi_main. That asks the firmware for everything that only
 * the firmware knows, ends boot services, and has the image moved to the address it is linked for:
 *
 *     loaded by the firmware       handoff, taken from the firmware          as it is linked
 *     +--------+---------+         +---------+------+-------------+          +-------------+
 *     | header |  image  | -copy-> | records | code | fresh image |  -move-> | fresh image |
 *     +--------+---------+         +---------+------+-------------+          +-------------+
 *      uefi_main runs here                  uefi_move runs here               and enters it
 *
 * The copy in between is there because until boot services end the image's own place may hold the
 * firmware's data, its page tables, or the loaded image. Memory that the firmware keeps for good
 * must not be there; then we say so and return. On aarch64 the image has no such place: it is
 * entered where the copy is.
 *
 * Up to the move this file runs where it was not linked for. It is compiled to find everything
 * relative to itself, has no tables of pointers (tools/check/check_position.py), keeps off the
 * vector registers, which not every firmware has switched on, and writes to the stack and the
 * handoff only, so that what is moved is as fresh as the file.
 *
 * Options: strongroom.conf from the directory that the program came from, then the load options
 * (of a boot entry or a shell). A file that is there and cannot be used ends the start: its absence
 * means that all disks are served, and that must not happen by accident.
 *
 * Trust: the firmware is trusted as the machine is; of its memory map only what would make us write
 * to the wrong place is checked. What lies on the volume and in its variables is foreign: bounded,
 * copied, and read by the parser of the command line.
 *
 * Missing on purpose: graphics, runtime services after the start, and the reclaiming of the tables
 * of ACPI: a few pages, not worth an order of events.
 */
#include "boot/uefi.h"
#include "boot/uefi_spec.h"
#include "kernel/compiler.h"

#include <string.h>

#define CONF_NAME  "strongroom.conf"
#define PATH_MAX   256u /* UCS-2 units */
#define NODES_MAX  64u
#define TABLES_MAX 256u

struct uefi {
    efi_handle self;
    struct efi_system_table *st;
    struct efi_boot_services *bs;
    const struct efi_loaded_image *loaded;
    struct uefi_handoff *h;
    bool target_taken;
    size_t words; /* length of h->words */
    uint64_t map_size, descriptor_size;
};

/* The image as loaded: the linker's names, found relative to this code. */
extern const uint8_t __image_start[], __bss_start[], __image_end[];

/* Of the file. */
static size_t image_bytes(void)
{
    return (size_t)((uintptr_t)__bss_start - (uintptr_t)__image_start);
}

static uint64_t pages_of(uint64_t bytes)
{
    return (bytes + EFI_PAGE_SIZE - 1) / EFI_PAGE_SIZE;
}

static uint64_t handoff_pages(void)
{
    return pages_of(sizeof(struct uefi_handoff) + (uintptr_t)__image_end -
                    (uintptr_t)__image_start);
}

/* ---- What people see ------------------------------------------------------------------------- */

static void say(const struct uefi *u, const char *s)
{
    uint16_t text[64];
    while (*s) {
        unsigned n = 0;
        while (*s && n < ARRAY_LEN(text) - 1)
            text[n++] = (uint8_t)*s++;
        text[n] = 0;
        u->st->con_out->output_string(u->st->con_out, text);
    }
}

static void note(const struct uefi *u, const char *sentence)
{
    if (!u->st->con_out)
        return;
    say(u, "strongroom: ");
    say(u, sentence);
    say(u, "\r\n");
}

/* ---- Options --------------------------------------------------------------------------------- */

static bool put_word_byte(struct uefi *u, char c)
{
    if (u->words == UEFI_WORDS_MAX - 1)
        return false;
    u->h->words[u->words++] = c;
    u->h->words[u->words] = 0;
    return true;
}

/* Lines of words: as on a command line, ends of lines are blanks, # opens a line of comment. */
static const char *add_conf(struct uefi *u, const uint8_t *text, size_t len)
{
    bool fresh = true, comment = false;
    for (size_t i = 0; i < len; i++) {
        uint8_t c = text[i];
        bool blank = c == ' ' || c == '\t' || c == '\r';
        if (c < ' ' && !blank && c != '\n')
            return CONF_NAME " is not a text";
        if (c == '\n' || (fresh && c == '#'))
            comment = c == '#';
        fresh = c == '\n' || (fresh && blank);
        if (!comment && !put_word_byte(u, c > ' ' ? (char)c : ' '))
            return CONF_NAME " has more than 4095 bytes of options";
    }
    return put_word_byte(u, ' ') ? NULL : CONF_NAME " has more than 4095 bytes of options";
}

/* Where the program's file is: the file path nodes together. */
static unsigned program_path(const struct uefi *u, uint16_t *path)
{
    const uint8_t *p = u->loaded->file_path;
    unsigned n = 0;
    for (unsigned nodes = 0; p && nodes < NODES_MAX; nodes++) {
        struct efi_device_path node;
        memcpy(&node, p, sizeof(node));
        unsigned len = node.length[0] | (unsigned)node.length[1] << 8;
        if (node.type == EFI_END_PATH || len < sizeof(node))
            break;
        if (node.type == EFI_MEDIA_PATH && node.subtype == EFI_MEDIA_FILE_PATH)
            for (unsigned i = sizeof(node); i + 1 < len && n < PATH_MAX; i += 2) {
                uint16_t c = (uint16_t)(p[i] | p[i + 1] << 8);
                if (c)
                    path[n++] = c;
            }
        p += len;
    }
    return n;
}

static bool conf_path(const struct uefi *u, uint16_t path[PATH_MAX])
{
    unsigned n = program_path(u, path);
    while (n && path[n - 1] != '\\')
        n--;
    if (!n)
        path[n++] = '\\';
    if (n > PATH_MAX - sizeof(CONF_NAME))
        return false;
    for (unsigned i = 0; i < sizeof(CONF_NAME); i++)
        path[n++] = (uint8_t)CONF_NAME[i];
    return true;
}

static const char *read_file(struct uefi *u, struct efi_file *f)
{
    size_t len = 0;
    for (;;) {
        uint64_t n = UEFI_SCRATCH - len;
        if (!n)
            return CONF_NAME " is longer than 48 KiB";
        if (f->read(f, &n, u->h->scratch + len) || n > UEFI_SCRATCH - len)
            return CONF_NAME " cannot be read";
        if (!n)
            return add_conf(u, u->h->scratch, len);
        len += n;
    }
}

static const char *read_conf(struct uefi *u)
{
    static const struct efi_guid guid = EFI_SIMPLE_FILE_SYSTEM_PROTOCOL_GUID;
    uint16_t path[PATH_MAX];
    void *volume;
    struct efi_file *root, *f;
    if (!u->loaded->device || u->bs->handle_protocol(u->loaded->device, &guid, &volume))
        return NULL; /* not from a volume: over the network, perhaps */
    struct efi_simple_file_system *fs = volume;
    if (fs->open_volume(fs, &root))
        return "the volume of " CONF_NAME " cannot be opened";
    const char *why = NULL;
    efi_status s = EFI_NOT_FOUND;
    if (conf_path(u, path))
        s = root->open(root, &f, path, EFI_FILE_MODE_READ, 0);
    else
        why = "the path of " CONF_NAME " is too long";
    if (!s) {
        why = read_file(u, f);
        f->close(f);
    } else if (s != EFI_NOT_FOUND) {
        why = CONF_NAME " cannot be opened";
    }
    root->close(root);
    return why;
}

/* Firmware and boot entries also leave bytes here that are no text. */
static const char *add_load_options(struct uefi *u)
{
    const uint8_t *text = u->loaded->load_options;
    size_t n = text ? u->loaded->load_options_size / 2 : 0, start = u->words;
    for (size_t i = 0; i < n; i++) {
        unsigned c = text[2 * i] | (unsigned)text[2 * i + 1] << 8;
        if (!c)
            break;
        if (c < ' ' || c > '~') {
            u->words = start;
            u->h->words[start] = 0;
            note(u, "the load options are not text: left out");
            break;
        }
        if (!put_word_byte(u, (char)c))
            return "the options are longer than 4095 bytes";
    }
    return NULL;
}

/* ---- Memory ---------------------------------------------------------------------------------- */

static bool get_map(struct uefi *u, uint64_t *key)
{
    uint32_t version;
    u->map_size = UEFI_SCRATCH;
    return !u->bs->get_memory_map(&u->map_size, u->h->scratch, key, &u->descriptor_size,
                                  &version) &&
           u->map_size <= UEFI_SCRATCH &&
           u->descriptor_size >= sizeof(struct efi_memory_descriptor) &&
           u->descriptor_size <= u->map_size;
}

/* The nth range of the map; false at its end. What makes no sense is an empty range. */
static bool map_range(const struct uefi *u, unsigned n, struct hvm_memmap_entry *e)
{
    struct efi_memory_descriptor d;
    if (n >= u->map_size / u->descriptor_size)
        return false;
    memcpy(&d, u->h->scratch + n * u->descriptor_size, sizeof(d));
    bool ram = d.type == EFI_LOADER_CODE || d.type == EFI_LOADER_DATA ||
               d.type == EFI_BOOT_SERVICES_CODE || d.type == EFI_BOOT_SERVICES_DATA ||
               d.type == EFI_CONVENTIONAL_MEMORY;
    bool absurd = !is_aligned(d.physical_start, EFI_PAGE_SIZE) ||
                  d.number_of_pages > (UINT64_MAX - d.physical_start) / EFI_PAGE_SIZE;
    *e = (struct hvm_memmap_entry){.addr = d.physical_start,
                                   .size = absurd ? 0 : d.number_of_pages * EFI_PAGE_SIZE,
                                   .type = ram ? HVM_MEMMAP_RAM : HVM_MEMMAP_RESERVED};
    return true;
}

/* Bytes that two ranges share. */
static uint64_t shared(const struct hvm_memmap_entry *a, uint64_t addr, uint64_t size)
{
    uint64_t from = MAX(a->addr, addr), to = MIN(a->addr + a->size, addr + size);
    return from < to ? to - from : 0;
}

/* Nothing that is free may be listed twice, and the image's own place must be free. */
static const char *check_map(const struct uefi *u)
{
    struct hvm_memmap_entry a, b;
    uint64_t size = uefi_target.end - uefi_target.base, found = 0;
    for (unsigned i = 0; map_range(u, i, &a); i++) {
        if (a.type != HVM_MEMMAP_RAM)
            continue;
        found += shared(&a, uefi_target.base, size);
        for (unsigned j = 0; map_range(u, j, &b); j++)
            if (i != j && shared(&a, b.addr, b.size))
                return "the firmware's memory map contradicts itself";
    }
    return found == size ? NULL : "the firmware keeps the memory that the image is linked for";
}

static void put_memmap(struct uefi *u)
{
    struct hvm_memmap_entry e, *out = u->h->memmap;
    unsigned count = 0;
    for (unsigned i = 0; map_range(u, i, &e); i++) {
        struct hvm_memmap_entry *last = count ? &out[count - 1] : NULL;
        if (e.type != HVM_MEMMAP_RAM || !e.size)
            continue;
        if (last && last->addr + last->size == e.addr)
            last->size += e.size;
        else if (count < UEFI_MEMMAP_MAX)
            out[count++] = e;
    }
    u->h->start.memmap_paddr = (uintptr_t)out;
    u->h->start.memmap_entries = count;
}

/* The place that the image is linked for is taken if it can be had, so that nothing else comes to
 * lie there; if not, check_map tells whether the firmware gives it back. */
static const char *take_memory(struct uefi *u)
{
    uint64_t target = uefi_target.base, size = uefi_target.end - target, at = uefi_target.reach - 1;
    uint64_t pages = handoff_pages();
    u->target_taken = size && !u->bs->allocate_pages(EFI_ALLOCATE_ADDRESS, EFI_LOADER_DATA,
                                                     pages_of(size), &target);
    if (u->bs->allocate_pages(EFI_ALLOCATE_MAX_ADDRESS, EFI_LOADER_CODE, pages, &at))
        return "no memory to start from";
    u->h = (struct uefi_handoff *)(uintptr_t)at;
    struct hvm_memmap_entry e = {.addr = at, .size = pages * EFI_PAGE_SIZE};
    if (shared(&e, uefi_target.base, size))
        return "no memory to start from but where the image is linked for";
    memset(u->h, 0, sizeof(*u->h));
    memcpy(u->h->image, __image_start, image_bytes());
    memcpy(u->h->code, uefi_move, (size_t)(uefi_move_end - uefi_move)); /* linker.ld: it fits */
    return NULL;
}

static void release_memory(struct uefi *u)
{
    if (u->h)
        u->bs->free_pages((uintptr_t)u->h, handoff_pages());
    if (u->target_taken)
        u->bs->free_pages(uefi_target.base, pages_of(uefi_target.end - uefi_target.base));
}

/* ---- The start ------------------------------------------------------------------------------- */

static uint64_t find_table(const struct uefi *u, const struct efi_guid *guid)
{
    for (unsigned i = 0; i < MIN(u->st->table_count, TABLES_MAX); i++)
        if (!memcmp(&u->st->tables[i].guid, guid, sizeof(*guid)))
            return (uintptr_t)u->st->tables[i].table;
    return 0;
}

static void put_records(struct uefi *u)
{
    static const struct efi_guid acpi = EFI_ACPI_20_TABLE_GUID, fdt = EFI_DTB_TABLE_GUID;
    u->h->start.magic = HVM_START_MAGIC;
    u->h->start.version = 1;
    u->h->start.cmdline_paddr = (uintptr_t)u->h->words;
    u->h->start.rsdp_paddr = find_table(u, &acpi);
    u->h->fdt = find_table(u, &fdt);
    if (!u->h->start.rsdp_paddr && !u->h->fdt)
        note(u, "neither ACPI nor a device tree: devices may be missing");
}

/* The map may change until the moment that it is used: once more with the new one. After the first
 * attempt nothing else of boot services may be called, not even for a message. */
static const char *leave(struct uefi *u)
{
    uint64_t key;
    if (!get_map(u, &key))
        return "no memory map from the firmware";
    const char *why = check_map(u);
    if (why || !u->bs->exit_boot_services(u->self, key))
        return why;
    if (!get_map(u, &key) || u->bs->exit_boot_services(u->self, key))
        u->st->runtime->reset_system(EFI_RESET_COLD, EFI_LOAD_ERROR, 0, NULL);
    return NULL;
}

static const char *prepare(struct uefi *u)
{
    static const struct efi_guid guid = EFI_LOADED_IMAGE_PROTOCOL_GUID;
    void *loaded;
    if (u->bs->handle_protocol(u->self, &guid, &loaded))
        return "the firmware does not say where it loaded this from";
    u->loaded = loaded;
    const char *why = take_memory(u);
    why = why ? why : read_conf(u);
    why = why ? why : add_load_options(u);
    if (why)
        return why;
    put_records(u);
    return leave(u);
}

efi_status EFIAPI uefi_main(efi_handle self, struct efi_system_table *st);
efi_status EFIAPI uefi_main(efi_handle self, struct efi_system_table *st)
{
    struct uefi u = {.self = self, .st = st, .bs = st->boot};
    const char *why = prepare(&u);
    if (why) {
        note(&u, why);
        release_memory(&u);
        return EFI_LOAD_ERROR;
    }
    put_memmap(&u);
    uefi_move_fn *move = (uefi_move_fn *)(uintptr_t)u.h->code;
    move(u.h, u.h->image, image_bytes());
    return EFI_LOAD_ERROR; /* not reached */
}
