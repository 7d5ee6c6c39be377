"""The look that all figures share: colours, markers, dashes and a template.

Colour is never the only sign. A shape and a shade of grey stand for the same k in every report;
lines differ by dashes too. What is drawn shows on white and on a dark page: markers by a grey
outline, lines by colours of middle lightness.
"""

import plotly.express as px
import plotly.graph_objects as go

INK = "#1f2933"
"""Text on white. The report's page replaces it when it is dark."""
MUTED, PALE = "#808080", "rgba(128,128,128,0.4)"
"""Lines, outlines and bars that must show on white and on black."""
ACCENT, WARM = "#0072B2", "#D55E00"
"""A blue and a vermilion that every kind of colour vision tells apart."""
SHAPES = {
    "k = 1": "circle", "k = 2": "square", "k = 3": "triangle-up", "k = 4": "x",
    "k = 5": "triangle-down", "k = 6": "pentagon", "k = 7": "cross", "k ≥ 8": "hexagon",
    "several k": "circle-open-dot",
}  # fmt: skip
"""The marker of each k, and of trials with several that share a place."""
SHADES = px.colors.sample_colorscale("Cividis", [0.0, 0.3, 0.55, 0.8, 1.0, 0.15, 0.42, 0.7])
"""Colours in the order of `SHAPES`: neighbours up to k = 5 are apart in greyscale too."""
COOL_TO_WARM = ["#0072B2", "#6A6FC1", "#A45FA8", "#C7527A", "#D55E00", "#A8790A"]
"""Colours of lines, at least 3 : 1 against white and against a dark page."""
DASHES = ["solid", "dot", "dash", "longdash", "dashdot", "longdashdot"]
STAR = {"symbol": "star", "size": 15, "color": "white", "line": {"color": ACCENT, "width": 2}}
"""The marker of what was measured, among predictions."""
LINEAR = "linear model alone"
BASELINE_DASHES = {"target alone": "dash", "draft alone": "dot", LINEAR: "dashdot"}

FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"
AXIS = go.layout.XAxis(
    gridcolor="rgba(128,128,128,0.22)", showline=True, linecolor=MUTED, zeroline=False,
    ticks="outside", tickcolor=MUTED, title_standoff=10, title_font_size=14, automargin=True,
)  # fmt: skip
STYLE = go.layout.Template(
    layout=go.Layout(
        title_font_size=18, title_subtitle_font_size=13, title_pad={"l": 12, "t": 14},
        title_x=0.0, title_xref="container", title_xanchor="left",
        title_y=1.0, title_yref="container", title_yanchor="top",
        paper_bgcolor="white", plot_bgcolor="rgba(0,0,0,0)",
        font_family=FONT, font_size=13, font_color=INK,
        hoverlabel_font_family=FONT, hoverlabel_font_size=13, hoverlabel_align="left",
        legend_orientation="h", legend_x=0.0, legend_y=-0.17, legend_yanchor="top",
        legend_itemsizing="trace", legend_bgcolor="rgba(0,0,0,0)",
        xaxis=AXIS.to_plotly_json(), yaxis=AXIS.to_plotly_json(),
    ),
    data_scatter=[go.Scatter(marker_line_color=MUTED, marker_line_width=1)],
)  # fmt: skip
"""The look that all figures share."""


def empty(height: int = 500, message: str = "") -> go.Figure:
    """A figure without data; a message says why nothing will be drawn."""
    figure = go.Figure(layout={"height": height, "template": STYLE})
    if message:
        figure.update_xaxes(visible=False).update_yaxes(visible=False)
        middle = {"x": 0.5, "y": 0.5, "xref": "paper", "yref": "paper"}
        figure.add_annotation(text=message, showarrow=False, font={"size": 15}, **middle)
    return figure
