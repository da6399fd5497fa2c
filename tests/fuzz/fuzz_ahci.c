/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What a SATA controller and its devices can say. An input begins with the kind of device (a byte),
 * the controller's CAP, PI and VS, and changes to the IDENTIFY data (a count, then word and value);
 * then comes a program, a byte per step and its arguments, that runs while the driver works:
 *
 *     0  the user reads, writes, flushes or trims       4  the device goes, or comes
 *     1  turns of the loop                              5  a knob of the device
 *     2  interrupt status bits out of nowhere           6  the byte count of a slot
 *     3  the next reads of a register give a value      7  SACT and CI bits go
 *
 * Whatever it says: every request ends, all memory comes back. A kind above 127 is IDENTIFY data alone.
 */
#include "ahci/device/model.h"
#include "ahci/port.h"
#include "kernel/board.h"
#include "tests/fuzz/support_boot.h"

#include <stdlib.h>
#include <string.h>

#define DISK     (256u << 10)
#define USERS    40u
#define LIES     8u
#define TURNS    100u
#define TOO_LONG (20ull * 1000000000)

static struct input {
    const uint8_t *p;
    size_t n;
} in;
static struct ahci_model hba;
static struct ahci_model_disk disk;
static uint8_t data[DISK];
static const struct ahci_bus *plain;
static struct lie {
    unsigned reg, left;
    uint32_t value;
} lies[LIES];
static unsigned next_lie;
static bool ended;
static int attach_rc;
static struct node node;

extern const struct blk_driver blk_ahci;

static uint8_t byte(void)
{
    if (!in.n)
        return 0;
    in.n--;
    return *in.p++;
}

static uint32_t word(void)
{
    uint32_t v = byte();
    v |= (uint32_t)byte() << 8;
    v |= (uint32_t)byte() << 16;
    return v | (uint32_t)byte() << 24;
}

static void turns(unsigned n)
{
    while (n--)
        loop_turn();
}

static void until(const bool *done, const char *what)
{
    uint64_t deadline = board_clock_ns() + TOO_LONG;
    while (!*done) {
        loop_turn();
        if (board_clock_ns() > deadline)
            panic("%s did not end", what);
    }
}

/* ---- A controller that lies ------------------------------------------------------------------ */

static uint32_t read(struct ahci_hba *h, unsigned reg)
{
    uint32_t value = plain->read(h, reg);
    for (unsigned i = 0; i < LIES; i++)
        if (lies[i].left && lies[i].reg == reg) {
            lies[i].left--;
            return lies[i].value;
        }
    return value;
}

static void lie(void)
{
    struct lie *l = &lies[next_lie++ % LIES];
    unsigned reg = byte();
    l->reg = reg & 0x80 ? AHCI_PORTS + (reg & 31) * 4 : (reg & 15) * 4;
    l->left = byte() % 32;
    l->value = word();
}

/* ---- Users ----------------------------------------------------------------------------------- */

static struct user {
    struct co_start start;
    uint8_t buf[16384];
    uint8_t what;
    uint64_t off;
    bool busy;
} users[USERS];
static unsigned running;

static void co_user(void *arg)
{
    struct user *u = arg;
    struct seg seg;
    size_t len = (1 + (u->what >> 3) % 4) * 4096;
    struct iov v = iov_one(&seg, u->buf, len);
    if (u->what % 8 < 4)
        blk_ahci.co_preadv(&node, u->off, v, 0);
    else if (disk.cd || u->what % 8 == 4)
        blk_ahci.co_flush(&node);
    else if (u->what % 8 == 5)
        blk_ahci.co_pdiscard(&node, u->off, len);
    else
        blk_ahci.co_pwritev(&node, u->off, v, u->what & 1 ? BLK_FUA : 0);
    u->busy = false;
    running--;
}

static void use(void)
{
    struct user *u = &users[byte() % USERS];
    uint8_t what = byte(), at = byte();
    if (u->busy || !node.state)
        return;
    u->busy = true;
    u->what = what;
    u->off = at % (DISK / 4096 - 4) * 4096ull;
    running++;
    co_start(&u->start, co_user, u);
}

/* ---- One input ------------------------------------------------------------------------------- */

static void co_attach(void *arg)
{
    (void)arg;
    static uint64_t state[32];
    struct error err = {0};
    node = (struct node){0};
    attach_rc = co_ahci_model_attach(&hba);
    if (!attach_rc && !list_empty(disk_list())) {
        struct disk *d = list_entry(disk_list()->next, struct disk, link);
        struct disk_options o = {.has_index = true, .index = d->index};
        memset(state, 0, sizeof(state));
        node.state = state;
        list_init(&node.parents);
        list_init(&node.children);
        if (blk_ahci.co_open(&node, &o, &err))
            node.state = NULL;
    }
    ended = true;
}

static void co_detach(void *arg)
{
    (void)arg;
    if (node.state)
        blk_ahci.co_close(&node);
    if (!attach_rc)
        co_ahci_model_detach(&hba);
    ended = true;
}

static void knob(void)
{
    uint8_t b = byte();
    disk.hold = b & 1;
    disk.mute = b & 2;
    disk.busy = b & 4;
    disk.no_log = b & 8;
    disk.no_medium = b & 16;
    disk.backwards = b & 32;
    disk.attention = b & 64 ? 0x28 : 0;
    hba.port[0].stuck = (b & 0xc3) == 0xc2;
    hba.no_reset = b & 128;
    disk.bad_first = byte();
    disk.bad_count = byte();
    disk.bad_left = byte();
}

static void byte_count(void)
{
    unsigned slot = byte() % 32;
    uint32_t n = word();
    if (hba.hba.port[0] && hba.hba.port[0]->mem)
        le32_set(&hba.hba.port[0]->mem->list[slot].prdbc, n);
}

static void step(void)
{
    switch (byte() % 8) {
    case 0:
        use();
        break;
    case 1:
        turns(byte() % TURNS);
        break;
    case 2:
        ahci_model_raise(&hba, 0, word());
        break;
    case 3:
        lie();
        break;
    case 4:
        ahci_model_plug(&hba, 0, byte() & 1 ? &disk : NULL);
        break;
    case 5:
        knob();
        break;
    case 6:
        byte_count();
        break;
    default:
        hba.port[0].reg[PX_SACT / 4] &= word();
        hba.port[0].reg[PX_CI / 4] &= word();
    }
}

static void prepare(unsigned kind)
{
    static struct ahci_bus bus;
    ahci_model_init(&hba, 2);
    plain = hba.hba.bus;
    bus = *plain;
    bus.read = read;
    hba.hba.bus = &bus;
    hba.hba.hurry = 100000;
    if (kind & 1)
        ahci_model_cd_init(&disk, data, DISK, "fuzz");
    else
        ahci_model_disk_init(&disk, data, DISK, kind & 2 ? 4096 : 512, "fuzz");
    hba.port[0].disk = &disk;
    memset(lies, 0, sizeof(lies));
    if (byte() & 1) {
        hba.cap = word() | CAP_S64A;
        hba.pi = word();
        hba.vs = word();
    }
    for (unsigned n = byte() % 16; n; n--) {
        uint8_t at = byte();
        ahci_model_id(&disk, at, (uint16_t)word());
    }
}

static void run(unsigned kind)
{
    static struct co_start start;
    prepare(kind);
    ended = false;
    co_start(&start, co_attach, NULL);
    until(&ended, "attaching");
    while (in.n && !attach_rc)
        step();
    memset(lies, 0, sizeof(lies));
    disk.hold = false;
    bool idle = false;
    for (uint64_t deadline = board_clock_ns() + TOO_LONG; !idle; idle = !running) {
        loop_turn();
        if (board_clock_ns() > deadline)
            panic("%u requests did not end", running);
    }
    ended = false;
    co_start(&start, co_detach, NULL);
    until(&ended, "detaching");
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    (void)argc, (void)argv;
    fuzz_boot(64);
    return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n)
{
    uint8_t id[ATA_IDENTIFY_BYTES] = {0};
    struct ahci_ident ident;
    const char *reason;
    in = (struct input){p, n};
    size_t before = page_free_bytes();
    unsigned kind = byte();
    if (kind > 127) {
        memcpy(id, in.p, MIN(in.n, sizeof(id)));
        int rc = ahci_identify_parse(&ident, id, kind & 1, &reason);
        if (!rc && (!is_pow2(ident.block_size) || ident.depth - 1 > 31 ||
                    strlen(ident.model) > 40 || strlen(ident.serial) > 20))
            panic("nonsense was accepted");
        return 0;
    }
    run(kind);
    turns(2);
    if (page_free_bytes() < before)
        panic("%zu bytes of pages did not come back", before - page_free_bytes());
    return 0;
}
