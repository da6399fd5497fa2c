/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef AHCI_PORT_H
#define AHCI_PORT_H
/*
 * Inside ahci/: a port, the device on it, and its requests. All on loop 0.
 *
 * States. EMPTY: no usable device; requests fail at once; a hot-plug event starts recovery. BUSY:
 * probing or recovering, by one coroutine; requests wait in line. ONLINE: requests run. A port with
 * a device that a node uses keeps its disk when the device goes: the same one may come back.
 */
#include "ahci/ahci.h"

struct ahci_ident { /* what IDENTIFY said, checked */
    char serial[21], model[41], firmware[9];
    bool packet, dmadir;
    bool lba48, ncq, fua, flush, flush_ext, trim;
    unsigned depth;       /* of the queue, 1..32 */
    uint64_t sectors;     /* logical */
    uint32_t block_size;  /* logical; 512..4096 */
    uint32_t physical;    /* bytes */
    unsigned trim_blocks; /* of 512 bytes, most per command */
    unsigned rotation;    /* per minute; 1: none; 0: not told */
};
/* words: 512 bytes as received. SR_EINVAL with a reason: nothing a driver can work with. */
int ahci_identify_parse(struct ahci_ident *id, const uint8_t *words, bool packet,
                        const char **reason);

enum ahci_kind { AHCI_READ, AHCI_WRITE, AHCI_FLUSH, AHCI_TRIM, AHCI_PACKET };
struct ahci_request {
    struct qlink link; /* in line */
    struct co *co;
    struct iov v; /* of reads, writes, packets */
    uint64_t lba; /* of the device's sectors */
    uint64_t count;
    enum ahci_kind kind;
    bool fua;
    const uint8_t *packet; /* 16 bytes; data comes in */
    /* By the port. */
    bool alone; /* not queued, with nothing beside it */
    bool done;
    uint8_t attempts, tick;
    uint8_t ata_error; /* of a command that failed: the error register */
    uint32_t received; /* bytes, of a packet */
    int result;
};

enum ahci_why { /* reasons for recovery, a set */
                WHY_TASKFILE = 1,
                WHY_FATAL = 2,
                WHY_TIMEOUT = 4,
                WHY_PLUG = 8,
                WHY_STOP = 16, /* detach */
};

struct ahci_memory { /* one run of pages */
    struct ahci_header list[AHCI_MAX_SLOTS];
    uint8_t fis[AHCI_FIS_BYTES];
    uint8_t unused[2816];
    uint8_t scratch[4096]; /* IDENTIFY, logs, trim ranges, sense: one user at a time */
    struct ahci_table table[];
};
static_assert(offsetof(struct ahci_memory, fis) == AHCI_LIST_BYTES, "list is 1 KiB aligned");
static_assert(offsetof(struct ahci_memory, scratch) == 4096, "tables are aligned");

#define AHCI_BOUNCE       (64u << 10)
#define AHCI_BOUNCE_SLOTS 8u

struct ahci_port {
    struct ahci_hba *hba;
    unsigned index, reg; /* its registers begin at reg */
    enum ahci_port_state { PORT_EMPTY, PORT_BUSY, PORT_ONLINE } state;
    struct ahci_ident id;
    struct ahci_memory *mem;
    size_t mem_bytes;
    uint8_t *bounce; /* AHCI_BOUNCE per slot; NULL: the controller reaches all memory */
    /* Commands. */
    uint32_t usable;  /* slots */
    uint32_t busy;    /* taken: pending or issued */
    uint32_t pending; /* not told to the controller yet */
    uint32_t issued;
    bool queued; /* what is in flight are NCQ commands */
    bool kick_pending;
    struct list kick_link;
    struct ahci_request *slot[AHCI_MAX_SLOTS];
    struct queue line;
    uint8_t tick;
    struct timer watchdog;
    /* Recovery. */
    unsigned why; /* new reasons */
    bool running; /* its coroutine */
    struct co_start recovery;
    /* The disk. */
    struct disk disk;
    bool probed;
    bool announced, foreign; /* foreign: not the device that the node was opened on */
    struct co_mutex packet_lock;
    enum ahci_door { DOOR_UNKNOWN, DOOR_MEDIUM, DOOR_CLOSED, DOOR_OPEN } door;
    struct log_site said;
    const char *failed; /* why the port is not in use */
};

static inline uint32_t port_read(struct ahci_port *p, unsigned reg)
{
    return hba_read(p->hba, p->reg + reg);
}
static inline void port_write(struct ahci_port *p, unsigned reg, uint32_t value)
{
    hba_write(p->hba, p->reg + reg, value);
}

/* command.c */
int co_ahci_request(struct ahci_port *p, struct ahci_request *r);
bool ahci_complete(struct ahci_port *p);  /* takes completions only */
bool ahci_poll_port(struct ahci_port *p); /* takes completions; true: there were some */
void ahci_arm_port(struct ahci_port *p);  /* the next event interrupts */
void ahci_pump(struct ahci_port *p);      /* issues what waits in line */
void ahci_finish(struct ahci_port *p, struct ahci_request *r, int result);
/* Takes all out of their slots, in order of their start: a list through link. */
struct qlink *ahci_take_all(struct ahci_port *p);
void ahci_port_init_commands(struct ahci_port *p);
/* A command of the driver's own, on an idle port that is not ONLINE. fis: command, feature, lba0..2,
 * count. Data comes to scratch, `bytes` of it. SR_ETIMEDOUT, SR_EIO. */
int co_ahci_internal(struct ahci_port *p, const struct fis_h2d *fis, size_t bytes);

/* port.c */
int co_ahci_port_make(struct ahci_hba *h, unsigned index); /* SR_ENOMEM */
void co_ahci_port_probe(struct ahci_port *p);              /* state is ONLINE or EMPTY then */
int co_ahci_port_stop(struct ahci_port *p);                /* command engine; SR_EIO: it goes on */
void ahci_port_start(struct ahci_port *p);
int co_ahci_port_reset(struct ahci_port *p);    /* COMRESET; SR_ENODEV, SR_ETIMEDOUT */
int co_ahci_port_identify(struct ahci_port *p); /* into id, when all is well */
void ahci_port_announce(struct ahci_port *p);
void ahci_port_withdraw(struct ahci_port *p);
bool ahci_link_up(struct ahci_port *p);
bool co_ahci_link_comes(struct ahci_port *p); /* within 100 ms */
void ahci_port_watch(struct ahci_port *p);    /* only hot-plug events are wanted */
void co_ahci_port_free(struct ahci_port *p);  /* the engine was stopped */
void ahci_port_say(struct ahci_port *p, const char *fmt, ...) PRINTF_LIKE(2, 3);

/* recover.c */
void ahci_recover(struct ahci_port *p, unsigned why);
void co_ahci_settle(struct ahci_port *p); /* until no recovery runs */

/* cd.c */
int co_ahci_cd_medium(struct ahci_port *p, bool *ready); /* asks; SR_EIO: no answer */
int co_ahci_cd_read(struct ahci_port *p, uint64_t off, struct iov v);

/* controller.c */
void co_ahci_hba_fail(struct ahci_hba *h); /* a port does not stop */
#endif
