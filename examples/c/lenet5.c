/* SPDX-License-Identifier: MIT */
/* LeNet-5 in a C program: which digits are these?
 *
 *     cc lenet5.c $(fastconv config --cflags) $(pkg-config --cflags --libs python3-embed) -o lenet5
 *     ./lenet5 model.safetensors images.f32
 *
 * model.safetensors: weights of models.lenet5, as fastconv train saves them. images.f32: 32 x 32 float32 pixels of each
 * image, normalised as in training. Prints the digit of each image and its ten scores. Python is started to find
 * fastconv, in the virtual environment that is active, and is not needed after that. */
#include <Python.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <fastconv.h>

enum { SIDE = 32, PIXELS = SIDE * SIDE, CLASSES = 10 };

static const fastconv_api *fc;

static void fail(const char *what, const char *why)
{
    fprintf(stderr, "lenet5: %s: %s\n", what, why);
    exit(1);
}

static void check(int status)
{
    if (status < 0)
        fail(fc->status_text(status), fc->last_error());
}

static char *read_file(const char *path, size_t *size)
{
    FILE *file = fopen(path, "rb");
    if (!file || fseek(file, 0, SEEK_END) != 0)
        fail(path, "cannot be read");
    const long end = ftell(file);
    rewind(file);
    char *content = end < 0 ? NULL : (char *)malloc((size_t)end + 1);
    if (!content || fread(content, 1, (size_t)end, file) != (size_t)end)
        fail(path, "cannot be read");
    fclose(file);
    content[end] = 0;
    *size = (size_t)end;
    return content;
}

/* A safetensors file: 8 bytes, the length of a JSON text; the text, which says where arrays lie; the arrays. */
typedef struct weights {
    char *text, *data;
    size_t bytes;                       /* of data */
} weights;

static weights read_weights(const char *path)
{
    size_t size, length = 0;
    char *content = read_file(path, &size);
    for (size_t i = 0; i < 8 && size >= 8; i++)
        length |= (size_t)(unsigned char)content[i] << (8 * i);
    if (size < 8 || length > size - 8)
        fail(path, "is not a safetensors file");
    weights w;
    w.text = (char *)calloc(length + 1, 1);
    w.data = (char *)malloc(size - 8 - length + 1);   /* aligned, as in the file it may not be */
    w.bytes = size - 8 - length;
    if (!w.text || !w.data)
        fail(path, "no memory");
    memcpy(w.text, content + 8, length);
    memcpy(w.data, content + 8 + length, w.bytes);
    free(content);
    return w;
}

static const float *weight_of(const weights *w, const char *name, size_t count)
{
    char key[64];
    snprintf(key, sizeof key, "\"%s\":{", name);
    const char *entry = strstr(w->text, key);
    const char *end = entry ? strchr(entry, '}') : NULL;
    const char *place = entry ? strstr(entry, "\"data_offsets\":[") : NULL;
    const char *type = entry ? strstr(entry, "\"dtype\":\"F32\"") : NULL;
    unsigned long long from, to;
    if (!end || !place || place > end || !type || type > end ||
        sscanf(place, "\"data_offsets\":[%llu,%llu]", &from, &to) != 2)
        fail(name, "is not in the file of weights");
    if (to > w->bytes || from > to || to - from != count * sizeof(float) || from % sizeof(float))
        fail(name, "has another size");
    return (const float *)(w->data + from);
}

/* y = max_pool(relu(conv(x))), by 5 x 5 filters and windows of 2 x 2. */
static void stage(const weights *w, const char *name, const fastconv_tensor *x, ptrdiff_t outputs, float *between,
                  float *result)
{
    char weight_name[32], bias_name[32];
    snprintf(weight_name, sizeof weight_name, "%s.weight", name);
    snprintf(bias_name, sizeof bias_name, "%s.bias", name);
    const ptrdiff_t channels = x->size[1], side = x->size[2] - 4;
    const fastconv_tensor weight =
        fastconv_nchw(weight_of(w, weight_name, (size_t)(outputs * channels * 25)), outputs, channels, 5, 5);
    const fastconv_tensor y = fastconv_channels_last(between, x->size[0], outputs, side, side);
    const fastconv_tensor pooled = fastconv_nchw(result, x->size[0], outputs, side / 2, side / 2);
    const fastconv_pool2d pool = fastconv_pool2d_defaults(2);
    fastconv_conv2d conv = fastconv_conv2d_defaults();
    conv.activation = FASTCONV_RELU;
    check(fc->conv2d_forward(&conv, x, &weight, weight_of(w, bias_name, (size_t)outputs), NULL, &y));
    check(fc->max_pool2d_forward(&pool, &y, &pooled, NULL));
}

static void fully_connected(const weights *w, const char *name, ptrdiff_t images, ptrdiff_t inputs, const float *x,
                            ptrdiff_t outputs, float *y)
{
    char weight_name[32], bias_name[32];
    snprintf(weight_name, sizeof weight_name, "%s.weight", name);
    snprintf(bias_name, sizeof bias_name, "%s.bias", name);
    const fastconv_tensor from = fastconv_nchw(x, images, inputs, 1, 1), to = fastconv_nchw(y, images, outputs, 1, 1);
    const fastconv_tensor weight =
        fastconv_nchw(weight_of(w, weight_name, (size_t)(outputs * inputs)), outputs, inputs, 1, 1);
    check(fc->linear_forward(&from, &weight, weight_of(w, bias_name, (size_t)outputs), &to));
}

static void relu(ptrdiff_t count, float *x) { check(fc->activation_forward(FASTCONV_RELU, (size_t)count, x, x)); }

int main(int count, char **arguments)
{
    if (count != 3)
        fail("usage", "lenet5 model.safetensors images.f32");
    Py_InitializeEx(0);
    fc = fastconv_import();
    if (!fc) {
        PyErr_Print();
        return 1;
    }
    size_t size;
    const weights w = read_weights(arguments[1]);
    const char *file = read_file(arguments[2], &size);
    const ptrdiff_t images = (ptrdiff_t)(size / (PIXELS * sizeof(float)));
    if (size % (PIXELS * sizeof(float)))
        fail(arguments[2], "must hold 32 x 32 float32 pixels an image");

    const size_t n = (size_t)images + 1;
    float *between = (float *)malloc(n * 6 * 28 * 28 * sizeof(float));
    float *maps1 = (float *)malloc(n * 6 * 14 * 14 * sizeof(float)), *maps2 = (float *)malloc(n * 400 * sizeof(float));
    float *units1 = (float *)malloc(n * 120 * sizeof(float)), *units2 = (float *)malloc(n * 84 * sizeof(float));
    float *scores = (float *)malloc(n * CLASSES * sizeof(float));
    if (!between || !maps1 || !maps2 || !units1 || !units2 || !scores)
        fail(arguments[2], "no memory");
    const fastconv_tensor x = fastconv_nchw((const float *)(const void *)file, images, 1, SIDE, SIDE);
    const fastconv_tensor x2 = fastconv_nchw(maps1, images, 6, 14, 14);
    stage(&w, "conv1", &x, 6, between, maps1);
    stage(&w, "conv2", &x2, 16, between, maps2);
    fully_connected(&w, "fc1", images, 400, maps2, 120, units1);
    relu(images * 120, units1);
    fully_connected(&w, "fc2", images, 120, units1, 84, units2);
    relu(images * 84, units2);
    fully_connected(&w, "fc3", images, 84, units2, CLASSES, scores);

    for (ptrdiff_t i = 0; i < images; i++) {
        int best = 0;
        for (int k = 1; k < CLASSES; k++)
            if (scores[i * CLASSES + k] > scores[i * CLASSES + best])
                best = k;
        printf("%d:", best);
        for (int k = 0; k < CLASSES; k++)
            printf(" %.9g", (double)scores[i * CLASSES + k]);
        printf("\n");
    }
    return 0;
}
