/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The controller's registers, its ports and command lists. See model.h; the disks are in media.c.
 */
#include "ahci/device/media.h"

#include <stdio.h>
#include <string.h>

#define REG(p, r)  ((p)->reg[(r) / 4])
#define SERR_X     (1u << 26)
#define SERR_N     (1u << 16)
#define STATUS_OK  0x50u
#define STATUS_ERR 0x51u

static struct ahci_model *model_of(struct ahci_hba *h)
{
    return container_of(h, struct ahci_model, hba);
}

void ahci_model_complain(struct ahci_model *m, const char *what)
{
    m->wrong++;
    m->complaint = what;
}

/* ---- Interrupts ------------------------------------------------------------------------------ */

static void update_interrupt(struct ahci_model *m, unsigned i)
{
    struct ahci_model_port *p = &m->port[i];
    if (!(REG(p, PX_IS) & REG(p, PX_IE)) || m->is >> i & 1)
        return;
    m->is |= 1u << i;
    if (!(m->ghc & GHC_IE))
        return;
    m->messages++;
    board_wake(0);
}

void ahci_model_raise(struct ahci_model *m, unsigned i, uint32_t bits)
{
    REG(&m->port[i], PX_IS) |= bits;
    update_interrupt(m, i);
}

/* ---- Link ------------------------------------------------------------------------------------ */

static void link_up(struct ahci_model *m, unsigned i)
{
    struct ahci_model_port *p = &m->port[i];
    struct ahci_model_disk *d = p->disk;
    p->queued = 0;
    p->halted = false;
    REG(p, PX_SSTS) = d ? 0x123 : 0;
    REG(p, PX_SIG) = !d ? SIG_NONE : d->cd ? SIG_ATAPI : SIG_DISK;
    REG(p, PX_TFD) = !d ? 0x7f : d->busy ? TFD_BSY : STATUS_OK | 0x100;
    REG(p, PX_SERR) |= SERR_X | SERR_N;
    if (d) {
        d->log_pending = d->stuck_once = false;
        if (d->cd)
            d->attention = d->attention ? d->attention : 0x29;
    }
    ahci_model_raise(m, i, d ? PIS_PCS | PIS_PRCS : PIS_PRCS);
}

void ahci_model_plug(struct ahci_model *m, unsigned i, struct ahci_model_disk *d)
{
    m->port[i].disk = d;
    link_up(m, i);
}

static void write_sctl(struct ahci_model *m, unsigned i, uint32_t value)
{
    struct ahci_model_port *p = &m->port[i];
    bool was = (REG(p, PX_SCTL) & 15) == SCTL_DET_INIT;
    if ((value & 15) == SCTL_DET_INIT && REG(p, PX_CMD) & CMD_ST)
        ahci_model_complain(m, "COMRESET of a port that runs");
    REG(p, PX_SCTL) = value;
    if ((value & 15) == SCTL_DET_INIT) {
        REG(p, PX_SSTS) = 0;
        REG(p, PX_TFD) = TFD_BSY;
        p->queued = 0;
    } else if (was) {
        m->comresets++;
        link_up(m, i);
    }
}

/* ---- Engines --------------------------------------------------------------------------------- */

static void write_cmd(struct ahci_model *m, unsigned i, uint32_t value)
{
    struct ahci_model_port *p = &m->port[i];
    uint32_t old = REG(p, PX_CMD), ro = CMD_CR | CMD_FR;
    if (value & CMD_ST && !(old & CMD_FR))
        ahci_model_complain(m, "started without receiving FISes");
    if (value & CMD_ST && !(old & CMD_ST) && REG(p, PX_TFD) & (TFD_BSY | TFD_DRQ))
        ahci_model_complain(m, "started while the device is busy");
    uint32_t now = (value & ~ro) | (p->stuck ? old & CMD_CR : 0);
    if (value & CMD_ST)
        now |= CMD_CR;
    if (value & CMD_FRE)
        now |= CMD_FR;
    if (old & CMD_ST && !(value & CMD_ST)) {
        REG(p, PX_CI) = REG(p, PX_SACT) = 0;
        p->halted = false;
    }
    REG(p, PX_CMD) = now;
}

static void reset_all(struct ahci_model *m)
{
    m->resets++;
    m->ghc = GHC_AE;
    m->is = 0;
    for (unsigned i = 0; i < MODEL_PORTS; i++) {
        struct ahci_model_port *p = &m->port[i];
        memset(p->reg, 0, sizeof(p->reg));
        link_up(m, i);
        REG(p, PX_IS) = 0;
    }
    m->is = 0;
}

static void write_ci(struct ahci_model *m, struct ahci_model_port *p, uint32_t value)
{
    if (!(REG(p, PX_CMD) & CMD_ST))
        ahci_model_complain(m, "a command for a port that is stopped");
    if (value & REG(p, PX_CI))
        ahci_model_complain(m, "a command in a slot that is in use");
    if (REG(p, PX_IS) & PIS_TFES)
        ahci_model_complain(m, "a command after an error"); /* QEMU would do others again */
    REG(p, PX_CI) |= value;
}

static void port_write_reg(struct ahci_model *m, unsigned i, unsigned reg, uint32_t value)
{
    struct ahci_model_port *p = &m->port[i];
    switch (reg) {
    case PX_IS: /* two of its bits are those of SERR */
        REG(p, PX_IS) &= ~value | PIS_PLUG;
        break;
    case PX_SERR:
        REG(p, PX_SERR) &= ~value;
        if (value & SERR_X)
            REG(p, PX_IS) &= ~PIS_PCS;
        if (value & SERR_N)
            REG(p, PX_IS) &= ~PIS_PRCS;
        break;
    case PX_CMD:
        write_cmd(m, i, value);
        break;
    case PX_SCTL:
        write_sctl(m, i, value);
        break;
    case PX_SACT:
        REG(p, PX_SACT) |= value;
        break;
    case PX_CI:
        write_ci(m, p, value);
        break;
    case PX_IE:
    case PX_CLB:
    case PX_CLBU:
    case PX_FB:
    case PX_FBU:
        REG(p, reg) = value;
        break;
    default:
        break; /* read-only */
    }
    update_interrupt(m, i);
}

static void write(struct ahci_hba *h, unsigned reg, uint32_t value)
{
    struct ahci_model *m = model_of(h);
    if (reg >= AHCI_PORTS + MODEL_PORTS * AHCI_PORT_SIZE || reg % 4) {
        ahci_model_complain(m, "a register that does not exist");
    } else if (reg >= AHCI_PORTS) {
        port_write_reg(m, (reg - AHCI_PORTS) / AHCI_PORT_SIZE, reg % AHCI_PORT_SIZE, value);
    } else if (reg == AHCI_GHC && value & GHC_HR) {
        m->ghc = value;
        if (!m->no_reset)
            reset_all(m);
    } else if (reg == AHCI_GHC) {
        m->ghc = value;
    } else if (reg == AHCI_IS) {
        m->is &= ~value;
        for (unsigned i = 0; i < MODEL_PORTS; i++)
            update_interrupt(m, i);
    } else if (reg == AHCI_BOHC) {
        m->bohc = value & BOHC_OOS && !m->firmware_keeps ? BOHC_OOS : value;
    }
}

static uint32_t plain_read(const struct ahci_model *m, unsigned reg)
{
    if (m->gone || reg % 4 || reg >= AHCI_PORTS + MODEL_PORTS * AHCI_PORT_SIZE)
        return UINT32_MAX;
    if (reg >= AHCI_PORTS)
        return m->port[(reg - AHCI_PORTS) / AHCI_PORT_SIZE].reg[reg % AHCI_PORT_SIZE / 4];
    switch (reg) {
    case AHCI_CAP:
        return m->cap;
    case AHCI_GHC:
        return m->ghc;
    case AHCI_IS:
        return m->is;
    case AHCI_PI:
        return m->pi;
    case AHCI_VS:
        return m->vs;
    case AHCI_CAP2:
        return m->cap2;
    case AHCI_BOHC:
        return m->bohc;
    default:
        return 0;
    }
}

static uint32_t read(struct ahci_hba *h, unsigned reg)
{
    struct ahci_model *m = model_of(h);
    uint32_t value = plain_read(m, reg);
    if (m->spoil) {
        m->spoil = m->spoil * 6364136223846793005ull + 1442695040888963407ull;
        uint32_t bits = (uint32_t)(m->spoil >> 32);
        if (bits % 8 == 0)
            value ^= 1u << (bits >> 8 & 31);
        else if (bits % 97 == 0)
            value = (uint32_t)(m->spoil >> 16);
    }
    return value;
}

static void cut(struct ahci_hba *h)
{
    model_of(h)->cut = true;
}

static const struct ahci_bus bus = {.read = read, .write = write, .cut = cut};

/* ---- Command lists --------------------------------------------------------------------------- */

static uint64_t address(const struct ahci_model_port *p, unsigned reg)
{
    return p->reg[reg / 4] | (uint64_t)p->reg[reg / 4 + 1] << 32;
}

static void check_table(struct ahci_model *m, const struct ahci_header *h, uint64_t list)
{
    uint64_t table = le64_get(h->table);
    if (table % 128 || list % 1024)
        ahci_model_complain(m, "a list or table that is not aligned");
    if (!(m->cap & CAP_S64A) && table >> 32)
        ahci_model_complain(m, "a table where the controller does not reach");
}

static void ended(struct ahci_model *m, unsigned i, unsigned slot, bool queued, int error)
{
    struct ahci_model_port *p = &m->port[i];
    if (!error) {
        REG(p, PX_TFD) = STATUS_OK;
        REG(p, queued ? PX_SACT : PX_CI) &= ~(1u << slot);
        ahci_model_raise(m, i, queued ? PIS_SDBS : PIS_DHRS);
        return;
    }
    if (queued) {
        p->disk->log_pending = true;
        p->disk->log_tag = (uint8_t)slot;
        p->disk->log_error = (uint8_t)error;
    }
    p->halted = true;
    REG(p, PX_TFD) = (uint32_t)error << 8 | STATUS_ERR;
    ahci_model_raise(m, i, PIS_TFES);
}

static bool is_queued(const struct ahci_table *t)
{
    return t->fis.command == ATA_READ_FPDMA || t->fis.command == ATA_WRITE_FPDMA;
}

static struct media_command command(struct ahci_model *m, struct ahci_model_port *p, unsigned slot)
{
    uint64_t list = address(p, PX_CLB);
    struct ahci_header *h = (struct ahci_header *)(uintptr_t)list + slot;
    check_table(m, h, list);
    return (struct media_command){
        .header = h, .table = (struct ahci_table *)(uintptr_t)le64_get(h->table), .slot = slot};
}

/* What was issued goes to the device: a queued command is accepted, another one is executed. */
static bool take(struct ahci_model *m, unsigned i, unsigned slot)
{
    struct ahci_model_port *p = &m->port[i];
    struct media_command c = command(m, p, slot);
    if (is_queued(c.table)) {
        if (!(REG(p, PX_SACT) >> slot & 1))
            ahci_model_complain(m, "a queued command without its SACT bit");
        REG(p, PX_CI) &= ~(1u << slot);
        p->queued |= 1u << slot;
        p->disk->most = MAX(p->disk->most, (unsigned)__builtin_popcount(p->queued));
        if (p->disk->log_pending)
            ended(m, i, slot, true, ATA_ABRT);
        return true;
    }
    if (p->queued && !p->disk->log_pending)
        ahci_model_complain(m, "a command that is not queued beside queued ones");
    if (p->disk->hold || media_stuck(p->disk, &c))
        return false;
    if (c.table->fis.command == ATA_READ_LOG_EXT)
        p->queued = 0;
    int error = media_execute(m, p->disk, &c);
    ended(m, i, slot, false, error);
    return true;
}

static bool execute_queued(struct ahci_model *m, unsigned i)
{
    struct ahci_model_port *p = &m->port[i];
    bool some = false;
    uint32_t left = p->queued;
    while (left && !p->halted && !p->disk->log_pending && !p->disk->hold) {
        unsigned slot = p->disk->backwards ? log2_floor(left) : (unsigned)__builtin_ctz(left);
        left &= ~(1u << slot);
        struct media_command c = command(m, p, slot);
        if (media_stuck(p->disk, &c))
            continue;
        int error = media_execute(m, p->disk, &c);
        if (!error)
            p->queued &= ~(1u << slot);
        ended(m, i, slot, true, error);
        some = true;
    }
    return some;
}

static bool work(struct ahci_model *m, unsigned i)
{
    struct ahci_model_port *p = &m->port[i];
    if (!p->disk || !(REG(p, PX_CMD) & CMD_CR) || p->disk->mute || m->cut)
        return false;
    bool some = execute_queued(m, i);
    for (unsigned slot = 0; slot < 32 && !p->halted; slot++)
        if (REG(p, PX_CI) >> slot & 1)
            some |= take(m, i, slot);
    return some;
}

static bool poll(struct poller *poller)
{
    struct ahci_model *m = container_of(poller, struct ahci_model, poller);
    bool some = false;
    for (unsigned i = 0; i < MODEL_PORTS; i++)
        some |= work(m, i);
    return some;
}

/* ---- Making one ------------------------------------------------------------------------------ */

void ahci_model_init(struct ahci_model *m, unsigned ports)
{
    *m = (struct ahci_model){.vs = 0x10301, .pi = (1u << ports) - 1};
    m->cap = CAP_S64A | CAP_SNCQ | 31u << 8 | (ports - 1);
    m->hba.bus = &bus;
    m->hba.regs = AHCI_PORTS + MODEL_PORTS * AHCI_PORT_SIZE;
    m->hba.hurry = 50;
    snprintf(m->hba.name, sizeof(m->hba.name), "loop 0");
}

int co_ahci_model_attach(struct ahci_model *m)
{
    for (unsigned i = 0; i < MODEL_PORTS; i++) {
        link_up(m, i);
        REG(&m->port[i], PX_CMD) |= CMD_SUD;
        REG(&m->port[i], PX_SERR) = REG(&m->port[i], PX_IS) = 0;
    }
    m->poller = (struct poller){.poll = poll};
    poller_add(&m->poller);
    int rc = co_ahci_attach(&m->hba);
    if (rc)
        poller_remove(&m->poller);
    return rc;
}

void co_ahci_model_detach(struct ahci_model *m)
{
    co_ahci_detach(&m->hba);
    poller_remove(&m->poller);
}
