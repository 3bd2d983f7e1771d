/* Plays a sine of 440 Hz for two seconds through the first ALSA card, loud: what an amixer and an aplay would do. The
 * card's mixer is unmuted by control names, the stream is 16 bits, stereo, 48 kHz. It says what failed and ends with 1. */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <sound/asound.h>

#define RATE 48000
#define FRAMES (2 * RATE)

static short sound[FRAMES][2];

static int fail(const char *what)
{
    perror(what);
    return 1;
}

/* Sets every value of a mixer element to its greatest. */
static int raise(int control, const char *name)
{
    struct snd_ctl_elem_info info;
    struct snd_ctl_elem_value value;
    unsigned i;

    memset(&info, 0, sizeof info);
    info.id.iface = SNDRV_CTL_ELEM_IFACE_MIXER;
    strcpy((char *)info.id.name, name);
    if (ioctl(control, SNDRV_CTL_IOCTL_ELEM_INFO, &info) < 0)
        return fail(name);
    memset(&value, 0, sizeof value);
    value.id = info.id;
    for (i = 0; i < info.count; i++)
        value.value.integer.value[i] = info.value.integer.max;
    if (ioctl(control, SNDRV_CTL_IOCTL_ELEM_WRITE, &value) < 0)
        return fail(name);
    return 0;
}

static void choose(struct snd_pcm_hw_params *params, int mask, unsigned bit)
{
    struct snd_mask *one = &params->masks[mask - SNDRV_PCM_HW_PARAM_FIRST_MASK];

    memset(one, 0, sizeof *one);
    one->bits[bit / 32] = 1u << bit % 32;
}

static void fix(struct snd_pcm_hw_params *params, int interval, unsigned value)
{
    struct snd_interval *one = &params->intervals[interval - SNDRV_PCM_HW_PARAM_FIRST_INTERVAL];

    one->min = one->max = value;
    one->integer = 1;
}

static int set_up(int stream)
{
    struct snd_pcm_hw_params params;
    unsigned i;

    memset(&params, 0, sizeof params);
    memset(params.masks, 0xff, sizeof params.masks);
    for (i = 0; i < sizeof params.intervals / sizeof *params.intervals; i++)
        params.intervals[i].max = UINT_MAX;
    params.rmask = ~0u;
    params.info = ~0u;
    choose(&params, SNDRV_PCM_HW_PARAM_ACCESS, SNDRV_PCM_ACCESS_RW_INTERLEAVED);
    choose(&params, SNDRV_PCM_HW_PARAM_FORMAT, SNDRV_PCM_FORMAT_S16_LE);
    choose(&params, SNDRV_PCM_HW_PARAM_SUBFORMAT, SNDRV_PCM_SUBFORMAT_STD);
    fix(&params, SNDRV_PCM_HW_PARAM_CHANNELS, 2);
    fix(&params, SNDRV_PCM_HW_PARAM_RATE, RATE);
    /* A third of a second, so that a slow guest doesn't run dry. */
    fix(&params, SNDRV_PCM_HW_PARAM_PERIOD_SIZE, 4096);
    fix(&params, SNDRV_PCM_HW_PARAM_PERIODS, 4);
    if (ioctl(stream, SNDRV_PCM_IOCTL_HW_PARAMS, &params) < 0)
        return fail("hardware parameters");
    if (ioctl(stream, SNDRV_PCM_IOCTL_PREPARE) < 0)
        return fail("prepare");
    return 0;
}

int main(void)
{
    static const char *const elements[] = {
        "Master Playback Switch", "Master Playback Volume", "PCM Playback Switch", "PCM Playback Volume",
    };
    /* Each sample follows from the two before it. */
    const double factor = 2 * cos(2 * 3.14159265358979323846 * 440 / RATE);
    double before = 0, last = 8000 * sin(2 * 3.14159265358979323846 * 440 / RATE);
    int control = open("/dev/snd/controlC0", O_RDWR), stream = open("/dev/snd/pcmC0D0p", O_WRONLY);
    struct snd_xferi rest = { 0, sound, FRAMES };
    unsigned i;

    if (control < 0 || stream < 0)
        return fail("/dev/snd");
    for (i = 0; i < sizeof elements / sizeof *elements; i++)
        if (raise(control, elements[i]))
            return 1;
    for (i = 0; i < FRAMES; i++) {
        double next = factor * last - before;

        sound[i][0] = sound[i][1] = (short)last;
        before = last;
        last = next;
    }
    if (set_up(stream))
        return 1;
    while (rest.frames > 0) {
        if (ioctl(stream, SNDRV_PCM_IOCTL_WRITEI_FRAMES, &rest) < 0) {
            /* It ran dry: it begins anew with what is left. */
            if (errno != EPIPE || ioctl(stream, SNDRV_PCM_IOCTL_PREPARE) < 0)
                return fail("write");
            continue;
        }
        rest.frames -= rest.result;
        rest.buf = (char *)rest.buf + 4 * rest.result;
    }
    if (ioctl(stream, SNDRV_PCM_IOCTL_DRAIN) < 0)
        return fail("drain");
    puts("played");
    return 0;
}
